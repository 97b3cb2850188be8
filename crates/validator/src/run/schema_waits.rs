//! Schemas that partitions wait for: asked for, and reported by readiness and metrics.

use kafka::Consumer;
use pipeline::admission::Event;

use crate::run::Loop;

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
        let waits: Vec<_> = waits.map(|wait| (wait.partition, wait.at, wait.schema)).collect();
        self.is_awaiting_schemas = !waits.is_empty();
        registry.report_waits("orders", &waits, &self.registry_metrics, self.health);
        Ok(())
    }
}
