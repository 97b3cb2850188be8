//! G3: a partition that starts processing has a store equal to the committed changelog.

mod forgotten_keys;
mod high_watermark;
mod open_transaction;
mod restores;
mod standby;
mod verified_stores;
