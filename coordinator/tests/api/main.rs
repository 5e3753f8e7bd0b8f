//! The API as its clients see it: a real server over a real Postgres, spoken to
//! over the wire. Workers are scripted; nothing of ours is replaced.

mod access;
mod conventions;
mod edges;
mod examples;
mod gangs;
mod gate;
mod harness;
mod life;
mod limits;
mod members;
mod page;
mod placement;
mod refusals;
mod rights;
mod streams;
mod versions;
