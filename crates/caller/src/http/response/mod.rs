//! Responses of the API: reading them, classifying failures, and the settings that classify statuses.

mod classify;
mod reading;
mod statuses;

pub(super) use classify::failure;
pub(super) use reading::ResponseReader;
pub(super) use statuses::{FieldSettings, ResponseSettings, parse};

#[cfg(test)]
pub(super) use statuses::OtherwiseSetting;
