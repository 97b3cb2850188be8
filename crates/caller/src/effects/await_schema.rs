//! Calls whose order names a schema that is not known: their partition waits, before anything is known of the call. So it
//! has no intent and no attempt, and nothing of it can be ambiguous.

use std::collections::BTreeMap;
use std::time::Instant;

use kafka::{ClientError, Consumer, Headers};
use pipeline::delivery::Event;
use rdkafka::message::{BorrowedMessage, Message as _};
use records::{Offset, Partition};
use registry::{Registry, RegistryMetrics};
use schemas::{Answer, SchemaId, Schemas, Unread, wire};
use service::failpoint::fails_at;

use crate::effects::Shell;
use crate::outbox::pending_call::PendingCall;

/// Schemas of the orders, and the partitions that wait for one.
pub(crate) struct OrderSchemas {
    pub(crate) registry: Registry,
    pub(crate) schemas: Schemas,
    pub(crate) metrics: RegistryMetrics,
    /// Where each waiting partition goes on, and the schema that it waits for.
    waits: BTreeMap<Partition, (Offset, SchemaId)>,
}

/// Document that the schema of an order has read it as; `None`: the order is read as it is. An error explains why it has
/// none.
pub(crate) type OrderDocument = Result<Option<Box<str>>, String>;

impl OrderSchemas {
    pub(crate) fn new(registry: Registry, schemas: Schemas, metrics: RegistryMetrics) -> Self {
        Self {
            registry,
            schemas,
            metrics,
            waits: BTreeMap::new(),
        }
    }

    /// Reads the order of a record. An error is the schema that it needs.
    fn document(&self, record: &BorrowedMessage<'_>) -> Result<OrderDocument, SchemaId> {
        let value = record.payload().unwrap_or_default();
        // Admitted before the validators had a registry, which refuse such values since.
        if wire::split(value).is_none() || Headers::of(record).last(wire::VALUE_SCHEMA_ID).is_some() {
            return Ok(Ok(None));
        }
        match self.schemas.read(value, false, Instant::now()) {
            Ok(document) => Ok(Ok(Some(document.into()))),
            Err(Unread::Needs(schema)) => Err(schema),
            // The last two do not come: such an answer ends no wait of a caller, see `EndsWait::Schema`.
            Err(Unread::Invalid(why) | Unread::UnknownSchema(why) | Unread::UnusableSchema(why)) => {
                Ok(Err(why))
            }
        }
    }
}

impl Shell {
    /// Returns the document of a record's order; `None` if its partition waits for a schema, and the record comes again.
    pub(crate) fn order_document(&mut self, record: &BorrowedMessage<'_>) -> Option<OrderDocument> {
        let (partition, offset) = (Partition(record.partition()), Offset(record.offset()));
        let Some(orders) = &mut self.order_schemas else {
            return Some(Ok(None));
        };
        // Read ahead of the pause.
        if orders.waits.contains_key(&partition) {
            return None;
        }
        let schema = match orders.document(record) {
            Ok(document) => return Some(document),
            Err(schema) => schema,
        };
        tracing::debug!(%partition, %offset, %schema, "call waits for the schema of its order");
        orders.waits.insert(partition, (offset, schema));
        self.control_intake(&[partition], "paused", Consumer::pause);
        self.follow_schema_waits();
        None
    }

    /// Takes an answer of the registry. The partitions that waited for it are read again from the record on. Returns the
    /// event that ends the membership if one of them cannot be.
    #[must_use]
    pub(crate) fn schema_answered(&mut self, id: SchemaId, answer: Answer) -> Option<Event<PendingCall>> {
        let orders = self.order_schemas.as_mut()?;
        orders.schemas.insert(id, answer, Instant::now());
        let ended = orders.waits.iter().filter(|(_, (_, schema))| *schema == id);
        let ended: Vec<_> = ended
            .map(|(partition, (offset, _))| (*partition, *offset))
            .collect();
        orders.waits.retain(|_, (_, schema)| *schema != id);
        for (partition, offset) in ended {
            let leader_epoch = self.consumer.leader_epoch(partition, offset);
            let started = if fails_at!("start-after-schema-wait") {
                Err(ClientError::unavailable("starting a partition"))
            } else {
                self.consumer.start(partition, offset, leader_epoch)
            };
            // Records behind this one were dropped. The partition would stand still, or go on behind them once it is
            // resumed, and they would count as a gap of the log.
            if let Err(error) = started {
                let topic = &self.config.topics.pending;
                tracing::warn!(topic, %partition, %offset, %error, "partition not read again, membership lost");
                return Some(self.client_lost(&error));
            }
            if self.intake_paused.contains(&partition) {
                self.control_intake(&[partition], "paused", Consumer::pause);
            }
        }
        self.follow_schema_waits();
        None
    }

    /// Forgets the waits of partitions that are no longer ours, or start elsewhere.
    pub(super) fn forget_schema_waits(&mut self, is_forgotten: impl Fn(Partition) -> bool) {
        self.intake_paused.retain(|partition| !is_forgotten(*partition));
        if let Some(orders) = &mut self.order_schemas {
            orders.waits.retain(|partition, _| !is_forgotten(*partition));
        }
        self.follow_schema_waits();
    }

    /// Returns `true` while the partition waits for a schema.
    pub(crate) fn awaits_schema(&self, partition: Partition) -> bool {
        let orders = self.order_schemas.as_ref();
        orders.is_some_and(|orders| orders.waits.contains_key(&partition))
    }

    /// Asks for the schemas that are waited for, and reports the waits by readiness and metrics.
    pub(crate) fn follow_schema_waits(&self) {
        let Some(orders) = &self.order_schemas else {
            return;
        };
        let wanted = orders.waits.values().map(|(_, schema)| *schema).collect();
        orders.registry.set_wanted(wanted);
        let waits: Vec<_> = orders
            .waits
            .iter()
            .map(|(partition, (offset, schema))| (*partition, *offset, *schema))
            .collect();
        orders
            .registry
            .report_waits("calls", &waits, &orders.metrics, &self.health);
    }
}
