//! Serves an open volume over NBD on a Unix socket.
