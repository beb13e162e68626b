//! What the tests of this crate share: a real ZooKeeper, a proxy that cuts or holds a multi, and a table's nodes.

pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod table;
