//! The one HTTP server; rooms bring routes.
