//! What every call carries: deadline, cancellation, peer, trace, lease, and the namespace.
//!
//! [`CallCx`] is a call without a namespace (version, introspection, namespaces, subscribe);
//! [`Cx`] is one with. Every namespaced trait takes `&Cx`, so none can be reached without a
//! namespace: the only way to a `Cx` is [`CallCx::in_namespace`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::id::{LeaseId, Namespace};

/// Who called, by the kernel's word (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id of the peer when it connected.
    pub pid: i32,
    /// Effective user id of the peer.
    pub uid: u32,
    /// Effective group id of the peer.
    pub gid: u32,
}

/// A call that names no namespace.
#[derive(Clone, Debug, Default)]
pub struct CallCx {
    deadline: Option<Instant>,
    cancel: CancellationToken,
    peer: Option<PeerCredentials>,
    trace: Option<Arc<str>>,
}

impl CallCx {
    /// A call of the daemon itself: no deadline, no peer, cancelled with `cancel`.
    pub fn background(cancel: CancellationToken) -> Self {
        Self { cancel, ..Self::default() }
    }
    /// The same call, to be answered before `deadline`.
    #[must_use]
    pub fn with_deadline(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }
    /// The same call, made by `peer`.
    #[must_use]
    pub fn with_peer(self, peer: Option<PeerCredentials>) -> Self {
        Self { peer, ..self }
    }
    /// The same call, part of the W3C trace `traceparent`.
    #[must_use]
    pub fn with_trace(self, traceparent: Option<Arc<str>>) -> Self {
        Self { trace: traceparent, ..self }
    }
    /// The call within `namespace`, what it touches kept by `lease`.
    pub fn in_namespace(&self, namespace: Namespace, lease: Option<LeaseId>) -> Cx {
        Cx { call: self.clone(), namespace, lease }
    }
    /// When the caller stops waiting.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
    /// How long the caller still waits, at most `bound`.
    pub fn remaining(&self, bound: Duration) -> Duration {
        let left = self.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        left.map_or(bound, |left| left.min(bound))
    }
    /// Fires when the caller gave up or the daemon stops.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.cancel
    }
    /// Who called.
    pub fn peer(&self) -> Option<PeerCredentials> {
        self.peer
    }
    /// The W3C `traceparent` of the call.
    pub fn trace(&self) -> Option<&str> {
        self.trace.as_deref()
    }
    /// Fails once the call is cancelled or past its deadline; for loops that do much work.
    ///
    /// # Errors
    /// `Cancelled` or `DeadlineExceeded`.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled(""));
        }
        if self.deadline.is_some_and(|d| d <= Instant::now()) {
            return Err(Error::deadline_exceeded(""));
        }
        Ok(())
    }
}

/// A call within a namespace.
#[derive(Clone, Debug)]
pub struct Cx {
    call: CallCx,
    namespace: Namespace,
    lease: Option<LeaseId>,
}

impl Cx {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
    /// The lease that keeps what the call touches.
    pub fn lease(&self) -> Option<&LeaseId> {
        self.lease.as_ref()
    }
    /// The same call under another lease, or none.
    #[must_use]
    pub fn with_lease(&self, lease: Option<LeaseId>) -> Self {
        Self { lease, ..self.clone() }
    }
}

impl std::ops::Deref for Cx {
    type Target = CallCx;
    fn deref(&self) -> &CallCx {
        &self.call
    }
}
