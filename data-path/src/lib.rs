//! Serves requests on an open volume through io_uring, whatever front end they come from.
