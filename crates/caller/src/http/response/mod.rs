//! Responses of the API: reading them, and the settings that classify them.

mod classify;
mod reading;
mod statuses;

pub(crate) use classify::report;
pub(crate) use reading::Reading;
pub(crate) use statuses::{FieldSettings, ResponseSettings, parse};

#[cfg(test)]
pub(crate) use statuses::OtherwiseSetting;
