//! From what a core answers to what a method returns.

use bowline_statemachine::kv::{Item, ScanPage};
use bowline_statemachine::{Answer, OpFault, Output};
use bytes::Bytes;

use crate::op::unexpected;
use crate::ticket::Reply;
use crate::{Error, RequestError};

/// The output of a command, unless the machine rejected it.
fn output(reply: Reply) -> Result<Output, Error> {
    match reply {
        Reply::Output(Output::Rejected(bad)) => Err(bad.into()),
        Reply::Output(Output::NotANumber) => Err(RequestError::NotANumber.into()),
        Reply::Output(Output::Overflow) => Err(RequestError::Overflow.into()),
        Reply::Output(output) => Ok(output),
        Reply::Unit | Reply::Answer(_) | Reply::Any(_) => Err(unexpected(reply)),
    }
}

/// The answer to a question, unless the machine refused it.
fn answer(reply: Reply) -> Result<Answer, Error> {
    match reply {
        Reply::Answer(Answer::NotSupported) => Err(RequestError::NotSupported.into()),
        Reply::Answer(Answer::Bad(bad)) => Err(bad.into()),
        Reply::Answer(answer) => Ok(answer),
        Reply::Unit | Reply::Output(_) | Reply::Any(_) => Err(unexpected(reply)),
    }
}

/// What becomes of the answer to a get: as the core sends it, or as it says it in the call.
pub(super) struct Take<T> {
    pub(super) reply: fn(Reply) -> Result<T, Error>,
    pub(super) item: fn(Option<Item>) -> T,
}

/// The value alone.
pub(super) const VALUE: Take<Option<Bytes>> = Take { reply: value, item: value_of };
/// The value with its version.
pub(super) const ITEM: Take<Option<Item>> = Take { reply: item, item: core::convert::identity };

fn value_of(item: Option<Item>) -> Option<Bytes> {
    item.map(|item| item.value)
}

/// Of put and delete.
pub(super) fn written(reply: Reply) -> Result<(), Error> {
    let output = output(reply)?;
    if let Output::Written { .. } = output {
        Ok(())
    } else {
        Err(unexpected(Reply::Output(output)))
    }
}

/// Of touch: whether the key was there.
pub(super) fn touched(reply: Reply) -> Result<bool, Error> {
    let output = output(reply)?;
    if let Output::Touched(touched) = output {
        Ok(touched.existed)
    } else {
        Err(unexpected(Reply::Output(output)))
    }
}

/// Of compare-and-swap.
pub(super) fn swapped(reply: Reply) -> Result<bool, Error> {
    let output = output(reply)?;
    if let Output::Guarded { ok, .. } = output {
        Ok(ok)
    } else {
        Err(unexpected(Reply::Output(output)))
    }
}

/// Of increment.
pub(super) fn number(reply: Reply) -> Result<i64, Error> {
    let output = output(reply)?;
    if let Output::Number(number) = output {
        Ok(number)
    } else {
        Err(unexpected(Reply::Output(output)))
    }
}

/// Of a batch.
pub(super) fn batch(reply: Reply) -> Result<(), Error> {
    let output = output(reply)?;
    if let Output::Guarded { ok: true, .. } | Output::Batch { .. } = output {
        return Ok(());
    }
    let refused = if let Output::Guarded { failed_guard, .. } = output {
        RequestError::GuardFailed(failed_guard)
    } else if let Output::OpFailed { fault: OpFault::NotANumber, .. } = output {
        RequestError::NotANumber
    } else if let Output::OpFailed { fault: OpFault::Overflow, .. } = output {
        RequestError::Overflow
    } else {
        return Err(unexpected(Reply::Output(output)));
    };
    Err(refused.into())
}

/// Of get.
fn value(reply: Reply) -> Result<Option<Bytes>, Error> {
    let answer = answer(reply)?;
    if let Answer::Value(item) = answer {
        Ok(value_of(item))
    } else {
        Err(unexpected(Reply::Answer(answer)))
    }
}

/// Of a get that wants to know the version too.
fn item(reply: Reply) -> Result<Option<Item>, Error> {
    let answer = answer(reply)?;
    if let Answer::Value(item) = answer { Ok(item) } else { Err(unexpected(Reply::Answer(answer))) }
}

/// Of one shard's part of a multi-get.
pub(super) fn values(reply: Reply) -> Result<Vec<Option<Bytes>>, Error> {
    let answer = answer(reply)?;
    if let Answer::Values(items) = answer {
        Ok(items.into_iter().map(value_of).collect())
    } else {
        Err(unexpected(Reply::Answer(answer)))
    }
}

/// Of one shard's part of a scan.
pub(super) fn page(reply: Reply) -> Result<ScanPage, Error> {
    let answer = answer(reply)?;
    if let Answer::Page(page) = answer { Ok(page) } else { Err(unexpected(Reply::Answer(answer))) }
}

/// Of a user's command.
pub(super) fn custom_output(reply: Reply) -> Result<Bytes, Error> {
    let output = output(reply)?;
    if let Output::Custom(bytes) = output {
        Ok(bytes)
    } else {
        Err(unexpected(Reply::Output(output)))
    }
}

/// Of a user's question.
pub(super) fn custom_answer(reply: Reply) -> Result<Bytes, Error> {
    let answer = answer(reply)?;
    if let Answer::Custom(bytes) = answer {
        Ok(bytes)
    } else {
        Err(unexpected(Reply::Answer(answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use bowline_statemachine::BadCommand;

    #[test]
    fn what_the_machine_refuses_is_an_error_and_never_an_answer() {
        let refused = |output| written(Reply::Output(output)).map_err(|error| error.code());
        assert_eq!(refused(Output::Written { rev: 1, prev: None }), Ok(()));
        assert_eq!(refused(Output::Rejected(BadCommand::Ttl)), Err(Code::INVALID));
        assert_eq!(refused(Output::NotANumber), Err(Code::NOT_A_NUMBER));
        assert_eq!(refused(Output::Number(1)), Err(Code::INVARIANT));
        let read = |answer| value(Reply::Answer(answer)).map_err(|error| error.code());
        assert_eq!(read(Answer::Value(None)), Ok(None));
        assert_eq!(read(Answer::NotSupported), Err(Code::NOT_SUPPORTED));
        assert_eq!(read(Answer::Bad(BadCommand::Token)), Err(Code::INVALID));
        assert_eq!(read(Answer::Values(vec![])), Err(Code::INVARIANT));
        let guarded = |ok| Reply::Output(Output::Guarded { ok, rev: 3, failed_guard: 2 });
        assert_eq!(swapped(guarded(false)), Ok(false));
        assert_eq!(batch(guarded(true)), Ok(()));
        let failed = batch(guarded(false)).expect_err("a guard failed");
        assert_eq!(failed, Error::Request(RequestError::GuardFailed(2)));
    }
}
