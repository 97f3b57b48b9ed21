//! The desk over real files: limits, histories, and that sealed tickets are what was taken.
