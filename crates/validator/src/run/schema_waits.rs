//! Schemas that partitions wait for: asked for, and reported by readiness and metrics.

use kafka::Consumer;
use pipeline::admission::Event;

use crate::run::Loop;

/// Readiness condition that a registry which does not answer breaks, while orders wait for it.
const SCHEMAS: &str = "schemas";

impl Loop<'_> {
    /// Takes the answers of the registry, and asks it for what partitions wait for.
    ///
    /// # Errors
    /// The program cannot continue.
    pub(super) fn follow_schemas(&mut self, consumer: &Consumer) -> anyhow::Result<()> {
        while let Ok((id, answer)) = self.schema_answers.try_recv() {
            self.apply(consumer, Event::SchemaAnswered(id, answer))?;
        }
        let Some(registry) = &self.registry else {
            return Ok(());
        };
        let mut waits = self.admission.schema_waits().peekable();
        // Most turns: nothing waits, and nothing has waited.
        if waits.peek().is_none() && !self.is_awaiting_schemas {
            return Ok(());
        }
        registry.set_wanted(self.admission.wanted_schemas());
        let waits: Vec<_> = waits.collect();
        self.is_awaiting_schemas = !waits.is_empty();
        self.registry_metrics.set_waiting(waits.len());
        match registry.trouble().filter(|_| self.is_awaiting_schemas) {
            None => self.health.set_ready(SCHEMAS),
            Some(why) => {
                let waits = waits.iter().map(|wait| {
                    format!(
                        "partition {} at offset {} for schema {}",
                        wait.partition, wait.at, wait.schema
                    )
                });
                self.health.set_unready(
                    SCHEMAS,
                    format!(
                        "orders wait for the schema registry and go on once it answers: {}. {why}",
                        waits.collect::<Vec<_>>().join("; ")
                    ),
                );
            }
        }
        Ok(())
    }
}
