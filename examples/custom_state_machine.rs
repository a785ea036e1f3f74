//! An application's own state machine: accounts that are never overdrawn. Takes a directory as its
//! argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use bowline::rkyv::{Archive, Deserialize, Serialize};
use bowline::{Apply, Consistency, EmbeddedEngine, Error, ReadCtx, SmError, StateMachine, WalLogs};

/// Moves money between accounts of one shard.
#[derive(Archive, Serialize)]
#[rkyv(crate = bowline::rkyv)]
struct Transfer {
    from: u32,
    to: u32,
    amount: u64,
}

/// Asks for the balance of an account.
#[derive(Archive, Serialize)]
#[rkyv(crate = bowline::rkyv)]
struct Balance {
    account: u32,
}

/// What an account holds, or why nothing moved.
#[derive(Archive, Serialize, Deserialize, Debug, PartialEq, Eq)]
#[rkyv(crate = bowline::rkyv)]
enum Outcome {
    Moved { left: u64 },
    Overdrawn { has: u64 },
}

#[derive(Default)]
struct Bank {
    accounts: BTreeMap<u32, u64>,
}

impl StateMachine for Bank {
    const NAME: &'static str = "bank";
    const VERSION: u16 = 1;
    type Command = Transfer;
    type Output = Outcome;
    type Query = Balance;
    type Answer = u64;
    type Frozen = BTreeMap<u32, u64>;

    fn create(_shard: u64) -> Self {
        // Account 0 is where money comes from.
        Self { accounts: BTreeMap::from([(0, 1_000)]) }
    }

    fn apply(&mut self, _ctx: &Apply, command: &ArchivedTransfer) -> Outcome {
        let (from, to) = (command.from.to_native(), command.to.to_native());
        let amount = command.amount.to_native();
        let has = self.accounts.get(&from).copied().unwrap_or(0);
        let Some(left) = has.checked_sub(amount) else { return Outcome::Overdrawn { has } };
        self.accounts.insert(from, left);
        *self.accounts.entry(to).or_insert(0) += amount;
        Outcome::Moved { left }
    }

    fn query(&self, _ctx: &ReadCtx, query: &ArchivedBalance) -> u64 {
        self.accounts.get(&query.account.to_native()).copied().unwrap_or(0)
    }

    fn freeze(&mut self, _version: u16) -> BTreeMap<u32, u64> {
        self.accounts.clone()
    }

    fn write(frozen: BTreeMap<u32, u64>, out: &mut dyn Write) -> Result<(), SmError> {
        for (account, balance) in frozen {
            let row = [u64::from(account).to_le_bytes(), balance.to_le_bytes()].concat();
            out.write_all(&row).map_err(|_full| SmError::Write)?;
        }
        Ok(())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), SmError> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        self.accounts.clear();
        for row in snapshot.chunks(16) {
            let account = row.get(..8).and_then(number).and_then(|id| u32::try_from(id).ok());
            let balance = row.get(8..).and_then(number);
            let (account, balance) = account.zip(balance).ok_or(SmError::Invalid)?;
            self.accounts.insert(account, balance);
        }
        Ok(())
    }
}

fn main() -> Result<(), Error> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/bank".to_owned());
    let builder = EmbeddedEngine::builder().data_dir(dir);
    let engine = builder.start_custom::<Bank, _>(WalLogs::default()).wait()?;
    engine.wait_ready(Duration::from_secs(30)).wait()?;
    let bank = engine.client().typed::<Bank>().expect("the engine runs a bank");

    let moved = bank.propose("branch-1", &Transfer { from: 0, to: 7, amount: 100 }).wait()?;
    let refused = bank.propose("branch-1", &Transfer { from: 9, to: 7, amount: 1 }).wait()?;
    let query = Balance { account: 7 };
    let balance = bank.query("branch-1", &query, Consistency::Linearizable).wait()?;
    println!("{moved:?}, {refused:?}, account 7 has {balance}");

    engine.stop().wait()
}
