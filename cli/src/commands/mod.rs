//! A file per verb. Each verb takes the command line and ends in nothing or a failure.

pub(crate) mod attach;
pub(crate) mod close;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod dump;
mod dump_json;
mod dump_text;
pub(crate) mod erase;
pub(crate) mod format;
pub(crate) mod header;
pub(crate) mod is_luks;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod open;
pub(crate) mod repair;
pub(crate) mod serve;
pub(crate) mod slot_add;
pub(crate) mod slot_change;
pub(crate) mod slot_list;
pub(crate) mod slot_remove;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod udev_name;
pub(crate) mod uuid;
