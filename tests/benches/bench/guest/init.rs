//! The first process of a guest: mounts, measures, tells, powers off.

use super::plan::{PATH, Plan, TREE, Told};
use crate::fault::{Fault, Naming, Result};
use crate::rounds::{Course, Subject};
use crate::work::{Cost, Meter, ROWS, Row};
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, init_module, reboot};
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// Tells the host where timed parts begin and end, since the server is there.
struct Bell(String);

impl Meter for Bell {
    fn begin(&self) {
        Told::Begin { share: self.0.clone() }.say();
    }

    fn end(&self) -> Cost {
        Told::End { share: self.0.clone() }.say();
        Cost::default()
    }
}

/// Does everything and powers the guest off; does not return.
pub(crate) fn main() -> ! {
    match work() {
        Ok(()) => Told::Done.say(),
        Err(why) => Told::Stuck { why: why.to_string() }.say(),
    }
    rustix::fs::sync();
    loop {
        // The host ends us anyway once we said that we are done.
        let _ = reboot(RebootCommand::PowerOff);
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn mount_at(source: &str, target: &Path, kind: &str, data: &str) -> Result<()> {
    let data = CString::new(data).naming("mount data")?;
    mount(source, target, kind, MountFlags::empty(), Some(data.as_c_str())).naming(format_args!("mount -t {kind} {}", target.display()))
}

fn work() -> Result<()> {
    mount_at("proc", Path::new("/proc"), "proc", "")?;
    mount_at("sys", Path::new("/sys"), "sysfs", "")?;
    mount_at("dev", Path::new("/dev"), "devtmpfs", "")?;
    let plan = Plan::read().map_err(|why| Fault(format!("{why}; {PATH}")))?;
    for module in &plan.modules {
        let path = Path::new("/modules").join(module);
        init_module(&fs::read(&path).naming(path.display())?, c"").naming(path.display())?;
    }
    let mut roots: Vec<PathBuf> = Vec::new();
    for share in &plan.shares {
        let root = Path::new("/share").join(&share.name);
        fs::create_dir(&root).naming(root.display())?;
        mount_at(&share.source, &root, &share.kind, &share.data)?;
        roots.push(root);
    }
    measure(&plan, &roots);
    roots.iter().try_for_each(|root| rustix::mount::unmount(root, rustix::mount::UnmountFlags::empty()).naming(root.display()))
}

fn measure(plan: &Plan, roots: &[PathBuf]) {
    let rows: Vec<&'static Row> = ROWS.iter().filter(|row| plan.rows.iter().any(|name| name == row.name)).collect();
    let bells: Vec<Bell> = plan.shares.iter().map(|share| Bell(share.name.clone())).collect();
    let subjects: Vec<Subject<'_>> =
        bells.iter().zip(roots).map(|(bell, root)| Subject { name: &bell.0, root, meter: bell, served: true, server: None }).collect();
    let course = Course { rows: &rows, rounds: plan.rounds, sizes: &plan.sizes, archive: Path::new(TREE) };
    let mut last = u32::MAX;
    course.run(
        &subjects,
        |_| {},
        |round, row, subject, result| {
            if round != last {
                last = round;
                Told::Round { round }.say();
            }
            let (row, share) = (row.name.to_owned(), subject.name.to_owned());
            match result {
                Ok(sample) => Told::Row { row, share, ops: sample.ops, nanos: sample.nanos },
                Err(why) => Told::Failed { row, share, why: why.to_string() },
            }
            .say();
        },
    );
}
