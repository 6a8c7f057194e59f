//! Both formats over real trees. What all formats have in common is tested by
//! the suite of stores; here is what lies on the disk, and what a cut leaves.

mod crash;
mod moves;
mod names;
mod records;
mod rig;
