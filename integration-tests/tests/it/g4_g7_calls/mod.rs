//! G4 to G7: each pending call has one final state, and is sent again only as its ambiguity policy allows.

mod api_outage;
mod at_most_once;
mod call_notes;
mod deferral;
mod delayed_commit;
mod delayed_deferral;
pub(crate) mod fixture;
mod hostile_api;
mod mass_rejection;
mod order_forms;
mod order_schemas;
mod stage_two;
