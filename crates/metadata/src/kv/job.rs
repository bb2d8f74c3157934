//! Updates with their types erased, for the queue.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::txn::{Txn, Verdict};
use super::{StoreError, panic_text};

/// Tells the caller how its group ended; on success the answer is the closure's own.
pub(crate) type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What a job says when it has run: whether to commit, and how to answer.
pub(crate) struct Ran {
    pub(crate) commit: bool,
    pub(crate) reply: Reply,
}

/// An update closure. Must not panic: it catches its closure's panics.
pub(crate) type Job = Box<dyn FnOnce(&mut Txn<'_>) -> Ran + Send>;

/// Erases the types of an update; `answer` gets the closure's answer or the group's failure.
pub(crate) fn job<T, E>(
    f: impl FnOnce(&mut Txn<'_>) -> Verdict<T, E> + Send + 'static,
    answer: impl FnOnce(Result<T, E>) + Send + 'static,
) -> Job
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    Box::new(move |txn| {
        // What the closure leaves in `txn` is thrown away when it panics.
        let (commit, result) = match catch_unwind(AssertUnwindSafe(|| f(txn))) {
            Ok(Verdict::Commit(result)) => (true, result),
            Ok(Verdict::Abort(error)) => (false, Err(error)),
            Err(payload) => {
                let message = panic_text(&*payload);
                tracing::error!(message, "a metadata transaction panicked");
                (false, Err(StoreError::Panicked { message }.into()))
            }
        };
        let reply = move |group: Result<(), StoreError>| match group {
            Ok(()) => answer(result),
            Err(error) => answer(Err(error.into())),
        };
        Ran { commit, reply: Box::new(reply) }
    })
}
