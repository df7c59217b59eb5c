//! Stopping a query from another connection.
