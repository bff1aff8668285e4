//! Health, readiness, metrics and cluster status over HTTP.
