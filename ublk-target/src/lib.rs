//! Serves an open volume as /dev/ublkbN.
