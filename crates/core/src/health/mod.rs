//! Health: counters that every thread writes ([`cell`]), the life cycle ([`ledger`]), and the sweep's statistics ([`rates`]).

pub(crate) mod cell;
pub(crate) mod ledger;
pub(crate) mod rates;
