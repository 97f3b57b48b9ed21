//! The client against real services over loopback, one in-memory member behind each.
