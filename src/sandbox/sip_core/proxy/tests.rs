//! Stories about the proxy, told in virtual time; and the simulation, in which the network does its worst.

mod bench;
mod calls;
mod forking;
mod hostile;
mod misbehaving;
mod registering;
mod routes;
mod simulation;
