//! Who may come in, and who may not: seen from outside, with the program as people have it.

mod authority;
mod entrances;
mod floods;
mod joining;
mod offices;
