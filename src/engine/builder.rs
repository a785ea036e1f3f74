//! Starting an engine: where its configuration comes from, and what it runs on.

use core::any::TypeId;
use core::fmt;
use core::future::Future;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_env::EnvFactory;
use bowline_env::glommio::GlommioFactory;
use bowline_statemachine::{Hosted, Kv, Machine};
use bowline_wal::{OpenLog, WalLogs};

use super::{DefaultEnv, EmbeddedEngine};
use crate::boot::boot;
use crate::config::{Config, CoreCount, DirectIo, Peer};
use crate::ticket::{Reply, Ticket, issue};
use crate::{Code, Error, Finding, Op, StateMachine};

/// A start that is being put together. What is set here comes last: after defaults, file and
/// environment.
#[derive(Debug)]
#[must_use = "nothing starts before one of the start methods is called"]
pub struct Builder {
    file: Option<PathBuf>,
    base: Option<Box<Config>>,
    edits: Vec<Edit>,
}

enum Edit {
    Set(String, String),
    With(Box<dyn FnOnce(&mut Config) + Send>),
}

impl Builder {
    pub(super) const fn new() -> Self {
        Self { file: None, base: None, edits: Vec::new() }
    }

    /// Reads this file instead of `$BOWLINE_CONFIG` or `$CONFIG_PATH`.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Self {
        self.file = Some(path.as_ref().to_path_buf());
        self
    }

    /// Begins with this configuration: neither a file nor the environment is read.
    pub fn config(mut self, config: Config) -> Self {
        self.base = Some(Box::new(config));
        self
    }

    /// Sets any key: `section.key` and a TOML value, or text that becomes a string.
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.edits.push(Edit::Set(key.into(), value.into()));
        self
    }

    /// Changes the configuration in place: every key is a field.
    pub fn configure(mut self, edit: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.edits.push(Edit::With(Box::new(edit)));
        self
    }

    /// `node.id`.
    pub fn node_id(self, id: u64) -> Self {
        self.configure(move |config| config.node.id = id)
    }

    /// `node.data_dir`.
    pub fn data_dir(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        self.configure(move |config| config.node.data_dir = path)
    }

    /// `node.app_address`.
    pub fn app_address(self, address: impl Into<String>) -> Self {
        let address = address.into();
        self.configure(move |config| config.node.app_address = address)
    }

    /// `cluster.name`.
    pub fn cluster_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.configure(move |config| config.cluster.name = name)
    }

    /// `cluster.peers`.
    pub fn peers(self, peers: Vec<Peer>) -> Self {
        self.configure(move |config| config.cluster.peers = peers)
    }

    /// `cluster.shards`.
    pub fn shards(self, count: u32) -> Self {
        self.configure(move |config| config.cluster.shards = count)
    }

    /// `cores.count`.
    pub fn cores(self, count: u32) -> Self {
        self.configure(move |config| config.cores.count = CoreCount::Is(count))
    }

    /// `limits.op_timeout`.
    pub fn op_timeout(self, timeout: Duration) -> Self {
        self.configure(move |config| config.limits.op_timeout = timeout)
    }

    /// `wal.direct_io`; off in development only.
    pub fn direct_io(self, direct_io: DirectIo) -> Self {
        self.configure(move |config| config.wal.direct_io = direct_io)
    }

    /// Starts a node with the key-value state machine.
    pub fn start(self) -> Op<EmbeddedEngine> {
        self.launch::<WalLogs, Kv<DefaultEnv>>(Config::logs, TypeId::of::<Kv<DefaultEnv>>())
    }

    /// Starts a node with the application's own state machine, and its own log or
    /// [`crate::WalLogs`].
    pub fn start_custom<M: StateMachine, L: OpenLog<DefaultEnv>>(
        self,
        log: L,
    ) -> Op<EmbeddedEngine> {
        self.launch::<L, Hosted<DefaultEnv, M>>(move |_| log, TypeId::of::<M>())
    }

    /// Starts a node with the key-value state machine on another machine: the simulator. Neither
    /// a file nor the environment is read.
    pub fn start_in<F: EnvFactory>(self, factory: F) -> Op<EmbeddedEngine> {
        let machine = TypeId::of::<Kv<F::Env>>();
        self.launch_in::<F, WalLogs, Kv<F::Env>>(factory, Config::logs, machine)
    }

    /// The same with logs of another kind or size.
    pub fn start_in_with<F: EnvFactory, L: OpenLog<F::Env>>(
        self,
        factory: F,
        log: L,
    ) -> Op<EmbeddedEngine> {
        let machine = TypeId::of::<Kv<F::Env>>();
        self.launch_in::<F, L, Kv<F::Env>>(factory, move |_| log, machine)
    }

    /// The same with the application's own state machine.
    pub fn start_custom_in<F, M, L>(self, factory: F, log: L) -> Op<EmbeddedEngine>
    where
        F: EnvFactory,
        M: StateMachine,
        L: OpenLog<F::Env>,
    {
        self.launch_in::<F, L, Hosted<F::Env, M>>(factory, move |_| log, TypeId::of::<M>())
    }

    /// The configuration as it would be started with.
    ///
    /// # Errors
    ///
    /// [`Error::Config`].
    pub fn build_config(mut self) -> Result<Config, Error> {
        let config = match self.base.take() {
            Some(config) => *config,
            None => Config::load(self.file.as_deref())?,
        };
        self.edit(config)
    }
}

impl Builder {
    fn launch<L, M>(
        self,
        logs: impl FnOnce(&Config) -> L + Send + 'static,
        machine: TypeId,
    ) -> Op<EmbeddedEngine>
    where
        L: OpenLog<DefaultEnv>,
        M: Machine<DefaultEnv>,
    {
        // Reading the configuration may block, so a thread comes before there is a directory.
        drive(&GlommioFactory::new(""), async move {
            let config = Arc::new(self.build_config()?);
            let factory = GlommioFactory::new(&config.node.data_dir);
            let logs = logs(&config);
            come_up::<_, L, M>(factory, logs, config, machine).await
        })
    }

    fn launch_in<F, L, M>(
        mut self,
        factory: F,
        logs: impl FnOnce(&Config) -> L + Send + 'static,
        machine: TypeId,
    ) -> Op<EmbeddedEngine>
    where
        F: EnvFactory,
        L: OpenLog<F::Env>,
        M: Machine<F::Env>,
    {
        let base = self.base.take().map_or_else(Config::default, |config| *config);
        let config = match self.edit(base) {
            Ok(config) => Arc::new(config),
            Err(error) => return Op::failed(error),
        };
        let logs = logs(&config);
        drive(&factory.clone(), come_up::<F, L, M>(factory, logs, config, machine))
    }

    fn edit(self, mut config: Config) -> Result<Config, Error> {
        for edit in self.edits {
            match edit {
                Edit::Set(key, value) => config.set(&key, &value)?,
                Edit::With(edit) => {
                    let before = config.clone();
                    edit(&mut config);
                    config.mark_changes(&before);
                },
            }
        }
        config.check()?;
        Ok(config)
    }
}

async fn come_up<F, L, M>(
    factory: F,
    logs: L,
    config: Arc<Config>,
    machine: TypeId,
) -> Result<EmbeddedEngine, Error>
where
    F: EnvFactory,
    L: OpenLog<F::Env>,
    M: Machine<F::Env>,
{
    let started = boot::<F, L, M>(factory.clone(), logs, Arc::clone(&config)).await?;
    let drive = Box::new(move |name, job| factory.drive(name, job));
    Ok(EmbeddedEngine::adopt(started, config, machine, drive))
}

/// Runs a start off the cores. Dropping the operation undoes it.
fn drive<F: EnvFactory>(
    factory: &F,
    start: impl Future<Output = Result<EmbeddedEngine, Error>> + Send + 'static,
) -> Op<EmbeddedEngine> {
    let (waiter, ticket) = issue();
    match factory.drive("bowline-start", async move { answer(ticket, start.await).await }) {
        Ok(()) => Op::waiting(waiter, Op::unbox),
        Err(error) => {
            let what = format!("no thread could be started: {error}");
            Op::failed(Error::Environment(Arc::new(Finding::error(Code::CORE_PANIC, what))))
        },
    }
}

async fn answer(ticket: Ticket, result: Result<EmbeddedEngine, Error>) {
    match result {
        Ok(engine) if ticket.is_abandoned() => {
            if let Err(error) = engine.stop().await {
                tracing::warn!(%error, "a start that nobody waited for was undone with an error");
            }
        },
        result => ticket.complete_now(result.map(|engine| Reply::Any(Box::new(engine)))),
    }
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(key, value) => write!(f, "{key} = {value}"),
            Self::With(_) => f.write_str("an edit in place"),
        }
    }
}
