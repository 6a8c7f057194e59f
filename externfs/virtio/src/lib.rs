//! The virtio-fs frontend for guests, a vhost-user backend.
