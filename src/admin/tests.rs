//! The console as a client sees it: every column frozen, every command's answer, the extended protocol as drivers speak
//! it, and a real driver at the end of an in-memory stream.

mod columns;
mod commands;
mod double;
mod drivers;
mod extended;
mod rows;
