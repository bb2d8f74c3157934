//! `containerd.services.events.v1`, and the same for shims over ttrpc.
//!
//! There is no replay: a subscriber gets what is published after it was registered, and it is
//! registered before the call is answered. A subscriber that falls too far behind is told so by
//! the end of its stream; publishers never wait for anyone.

mod fields;
mod ttrpc;

use std::sync::Arc;

use futures_util::stream;
use gantry_api::containerd::services::events::v1 as wire;
use gantry_api::containerd::services::events::v1::events_server::Events;
use gantry_api::containerd::types;
use gantry_core::filter::Filters;
use gantry_core::model::Envelope;
use gantry_core::{Clock, Error, Result};
use gantry_metadata::{Journal, Subscription};
use tonic::{Request, Response, Status, async_trait};

use crate::convert::{self, envelope};
use crate::rpc;

pub use ttrpc::TtrpcEvents;

/// The service.
#[derive(Clone, Debug)]
pub struct EventsService {
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
}

impl EventsService {
    /// The service over a journal.
    pub fn new(journal: Arc<Journal>, clock: Arc<dyn Clock>) -> Self {
        Self { journal, clock }
    }
}

#[async_trait]
impl Events for EventsService {
    async fn publish(
        &self,
        request: Request<wire::PublishRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::namespaced(request, async |cx, message| {
            rpc::about(&message.topic);
            envelope::check_topic(&message.topic)?;
            self.journal.publish(Envelope {
                timestamp: self.clock.now(),
                namespace: cx.namespace().clone(),
                topic: message.topic,
                event: convert::typed(message.event.unwrap_or_default()),
            });
            Ok(())
        })
        .await
    }

    async fn forward(
        &self,
        request: Request<wire::ForwardRequest>,
    ) -> std::result::Result<Response<()>, Status> {
        rpc::plain(request, async |_, message| {
            self.journal.publish(envelope::from_wire(message.envelope)?);
            Ok(())
        })
        .await
    }

    type SubscribeStream = rpc::Replies<types::Envelope>;

    async fn subscribe(
        &self,
        request: Request<wire::SubscribeRequest>,
    ) -> std::result::Result<Response<Self::SubscribeStream>, Status> {
        rpc::plain_stream(request, async |_, message| {
            let filters = convert::filters(&message.filters).map_err(|error| {
                // A plain error in containerd, so clients see code Unknown.
                Error::unknown(error.context("failed parsing subscription filters").message())
                    .context("subscription error")
            })?;
            let subscription = self.journal.subscribe();
            Ok(stream::unfold(Some((subscription, filters)), next))
        })
        .await
    }
}

type State = Option<(Subscription, Filters)>;

/// The next event that matches; the end after an error.
async fn next(state: State) -> Option<(Result<types::Envelope>, State)> {
    let (mut subscription, filters) = state?;
    loop {
        let Some(event) = subscription.next().await else {
            let error = Error::resource_exhausted("subscriber fell behind and missed events");
            return Some((Err(error), None));
        };
        if filters.matches(&fields::Shown(&event.envelope)) {
            let envelope = envelope::to_wire(event.envelope.clone());
            return Some((Ok(envelope), Some((subscription, filters))));
        }
    }
}
