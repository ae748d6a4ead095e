//! The program `diemcau`.
fn main() {}
