//! What callers of each protocol see of a door, before a model that is made up: with gRPC's own client and with bytes on HTTP.

mod chaos;
mod client;
mod fake;
mod http;
mod inference;
mod inference_rest;
mod life;
mod unary;
mod uploads;
