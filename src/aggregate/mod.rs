//! On the leader: committed events to windows to checkpoints.
