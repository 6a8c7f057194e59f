//! Being written. 
fn main() {}
