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
        Reply::Unit | Reply::Answer(_) | Reply::Any(_) => Err(unexpected(&reply)),
    }
}

/// The answer to a question, unless the machine refused it.
fn answer(reply: Reply) -> Result<Answer, Error> {
    match reply {
        Reply::Answer(Answer::NotSupported) => Err(RequestError::NotSupported.into()),
        Reply::Answer(Answer::Bad(bad)) => Err(bad.into()),
        Reply::Answer(answer) => Ok(answer),
        Reply::Unit | Reply::Output(_) | Reply::Any(_) => Err(unexpected(&reply)),
    }
}

fn value_of(item: Option<Item>) -> Option<Bytes> {
    item.map(|item| item.value)
}

/// Of put and delete.
pub(super) fn written(reply: Reply) -> Result<(), Error> {
    match output(reply)? {
        Output::Written { .. } => Ok(()),
        other => Err(unexpected(&Reply::Output(other))),
    }
}

/// Of touch: whether the key was there.
pub(super) fn touched(reply: Reply) -> Result<bool, Error> {
    match output(reply)? {
        Output::Touched(touched) => Ok(touched.existed),
        other => Err(unexpected(&Reply::Output(other))),
    }
}

/// Of compare-and-swap.
pub(super) fn swapped(reply: Reply) -> Result<bool, Error> {
    match output(reply)? {
        Output::Guarded { ok, .. } => Ok(ok),
        other => Err(unexpected(&Reply::Output(other))),
    }
}

/// Of increment.
pub(super) fn number(reply: Reply) -> Result<i64, Error> {
    match output(reply)? {
        Output::Number(number) => Ok(number),
        other => Err(unexpected(&Reply::Output(other))),
    }
}

/// Of a batch.
pub(super) fn batch(reply: Reply) -> Result<(), Error> {
    match output(reply)? {
        Output::Guarded { ok: true, .. } | Output::Batch { .. } => Ok(()),
        Output::Guarded { ok: false, failed_guard, .. } => {
            Err(RequestError::GuardFailed(failed_guard).into())
        },
        Output::OpFailed { fault: OpFault::NotANumber, .. } => Err(RequestError::NotANumber.into()),
        Output::OpFailed { fault: OpFault::Overflow, .. } => Err(RequestError::Overflow.into()),
        other => Err(unexpected(&Reply::Output(other))),
    }
}

/// Of get.
pub(super) fn value(reply: Reply) -> Result<Option<Bytes>, Error> {
    match answer(reply)? {
        Answer::Value(item) => Ok(value_of(item)),
        other => Err(unexpected(&Reply::Answer(other))),
    }
}

/// Of a get that wants to know the version too.
pub(super) fn item(reply: Reply) -> Result<Option<Item>, Error> {
    match answer(reply)? {
        Answer::Value(item) => Ok(item),
        other => Err(unexpected(&Reply::Answer(other))),
    }
}

/// Of one shard's part of a multi-get.
pub(super) fn values(reply: Reply) -> Result<Vec<Option<Bytes>>, Error> {
    match answer(reply)? {
        Answer::Values(items) => Ok(items.into_iter().map(value_of).collect()),
        other => Err(unexpected(&Reply::Answer(other))),
    }
}

/// Of one shard's part of a scan.
pub(super) fn page(reply: Reply) -> Result<ScanPage, Error> {
    match answer(reply)? {
        Answer::Page(page) => Ok(page),
        other => Err(unexpected(&Reply::Answer(other))),
    }
}

/// Of a user's command.
pub(super) fn custom_output(reply: Reply) -> Result<Bytes, Error> {
    match output(reply)? {
        Output::Custom(bytes) => Ok(bytes),
        other => Err(unexpected(&Reply::Output(other))),
    }
}

/// Of a user's question.
pub(super) fn custom_answer(reply: Reply) -> Result<Bytes, Error> {
    match answer(reply)? {
        Answer::Custom(bytes) => Ok(bytes),
        other => Err(unexpected(&Reply::Answer(other))),
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
