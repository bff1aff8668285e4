//! Answers questions about rollups at any node.
