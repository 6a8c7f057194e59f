//! A Debian root in a humfs tree that an ordinary user owns: made from a tar
//! archive, booted, worked in, taken out again, in each metadata format.

use externfs_tests::fixture::{self, cache_dir, need_program, temp_dir};
use externfs_tests::harness::{self, Case, skip};
use externfs_tests::ordinary;
use humfs::store::Format;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

/// A root of fewer objects proves less than we say.
const OBJECTS_MIN: usize = 10_000;

/// Beside the smallest system: what brings it above [`OBJECTS_MIN`].
const PACKAGES: &str = "--include=python3,git,man-db";

/// What is installed in the guest.
const PACKAGE: &str = "hello";

fn main() -> ExitCode {
    let cases = || {
        let mut cases = vec![Case::new("all_formats_carry_it_without_loss", all_formats_carry_it_without_loss).limit(900)];
        for format in [Format::Xattr, Format::ShadowFs] {
            let case = Case::new(format!("guest_root_is_root_in_{}", format.name()), move || guest_root_is_root(format));
            cases.push(case.limit(600));
        }
        cases
    };
    ordinary::in_own_mounts(|| harness::main(cases()))
}

/// The archive, kept between runs, and a package to install.
fn archive() -> (PathBuf, PathBuf) {
    fixture::need_root();
    ordinary::need();
    let archive = cache_dir().join("debian-root.tar");
    let package = cache_dir().join("debian-package");
    let suite = fixture::shell(". /etc/os-release; echo ${VERSION_CODENAME:-bookworm}");
    if !archive.is_file() {
        let program = need_program("debootstrap", "debootstrap");
        let dir = temp_dir();
        let root = dir.path().join("root");
        let made = fixture::output(Command::new(program).args(["--variant=minbase", PACKAGES, suite.trim()]).arg(&root));
        if !made.status.success() {
            let said = text(&made);
            skip(format!("debootstrap has no Debian to fetch: {}", said.lines().last().unwrap_or_default()));
        }
        // What a guest's root has and debootstrap's has not.
        fixture::shell(&format!("setcap cap_net_raw+ep {0}/bin/tar; mkfifo -m 640 {0}/run/pipe; touch -h -d @1.5 {0}/bin", root.display()));
        let fresh = archive.with_extension("new");
        let pack =
            format!("tar --format=posix --xattrs --xattrs-include='*' --numeric-owner -C {} -cf {} .", root.display(), fresh.display());
        fixture::shell(&pack);
        fs::rename(&fresh, &archive).expect("the archive");
    }
    if !package.is_dir() {
        fs::create_dir_all(&package).expect("a directory");
        let fetch = format!("cd {} && apt-get download -q {PACKAGE} 2>&1", package.display());
        let fetched = fixture::output(Command::new("sh").args(["-c", &fetch]));
        if !fetched.status.success() {
            let _ = fs::remove_dir_all(&package);
            skip("apt-get has no package to fetch");
        }
    }
    (archive, package)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `externfs` by the ordinary user, in `dir`, which is his.
fn externfs(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(fixture::binary());
    command.args(arguments).current_dir(dir).env("TMPDIR", dir).env_remove("XDG_RUNTIME_DIR");
    ordinary::act(&mut command);
    let done = fixture::output(&mut command);
    assert!(done.status.success(), "externfs {arguments:?}: {}\n{}", done.status, text(&done));
    done
}

/// A directory of the user's, with the archive where he can read it.
fn workplace(archive: &Path) -> tempfile::TempDir {
    let dir = temp_dir();
    ordinary::give(dir.path());
    fs::hard_link(archive, dir.path().join("debian.tar"))
        .or_else(|_| fs::copy(archive, dir.path().join("debian.tar")).map(drop))
        .expect("the archive");
    dir
}

fn create(dir: &Path, format: Format) {
    externfs(dir, &["create", "tree", "--size", "4G", "--metadata", format.name(), "--from", "debian.tar"]);
}

fn all_formats_carry_it_without_loss() {
    let (archive, _) = archive();
    let dir = workplace(&archive);
    let mut first: Option<Vec<u8>> = None;
    for format in Format::ALL {
        create(dir.path(), format);
        externfs(dir.path(), &["check", "tree"]);
        externfs(dir.path(), &["export", "tree", "--tar", "out.tar"]);
        let sum = fixture::succeed(Command::new("sha256sum").arg(dir.path().join("out.tar"))).into_bytes();
        match &first {
            None => {
                compare(dir.path(), &archive);
                first = Some(sum);
            }
            Some(first) => assert_eq!(&sum, first, "{format:?} exports something else"),
        }
        fs::remove_dir_all(dir.path().join("tree")).expect("the tree");
    }
    // Through our own archive and back: not a byte differs.
    externfs(dir.path(), &["create", "tree", "--size", "4G", "--metadata", "xattr", "--from", "out.tar"]);
    externfs(dir.path(), &["export", "tree", "--tar", "again.tar"]);
    fixture::succeed(Command::new("cmp").arg(dir.path().join("out.tar")).arg(dir.path().join("again.tar")));
}

/// What tar(1) unpacks of out.tar is what is in `archive`: contents, owners,
/// modes, devices, links, times to the second, attributes.
fn compare(dir: &Path, archive: &Path) {
    let unpacked = temp_dir();
    let (at, out) = (unpacked.path().display(), dir.join("out.tar"));
    fixture::shell(&format!("tar --xattrs --xattrs-include='*' --numeric-owner -C {at} -xpf {}", out.display()));
    let objects: usize = fixture::shell(&format!("find {at} | wc -l")).trim().parse().expect("a number");
    assert!(objects >= OBJECTS_MIN, "{objects} objects are too few");
    println!("    {objects} objects");
    let differs = fixture::output(Command::new("tar").args(["--numeric-owner", "-d", "-C"]).arg(unpacked.path()).arg("-f").arg(archive));
    assert!(differs.status.success(), "{}", text(&differs));
    let capability = fixture::succeed(Command::new("getcap").arg(unpacked.path().join("bin/tar")));
    assert!(capability.contains("cap_net_raw"), "{capability}");
}

const WORK: &str = r#"
test "$(id -u)" = 0
dpkg -i /mnt/debs/*.deb >/tmp/log 2>&1 || { cat /tmp/log; exit 1; }
hello | grep -q 'Hello, world'
useradd -m bob
test "$(su bob -c 'id -un')" = bob
! su bob -c 'cat /etc/shadow' 2>/tmp/log
grep -q 'Permission denied' /tmp/log
su bob -c 'umask 077; echo secret >~/letter'
test "$(stat -c %a:%U /home/bob/letter)" = 600:bob
mknod /root/null c 1 3
echo gone >/root/null
test -z "$(cat /root/null)"
test "$(stat -c %a /bin/su)" = 4755
cp /usr/bin/id /home/bob/id
chown bob /home/bob/id
chmod 4755 /home/bob/id
test "$(/home/bob/id -un)" = bob
echo >>/home/bob/id
test "$(stat -c %a /home/bob/id)" = 4755
su bob -c 'echo >>~/id'
test "$(stat -c %a /home/bob/id)" = 755
mkdir -p /srv/jail/bin /srv/jail/lib /srv/jail/lib64
for file in /bin/true $(ldd /bin/true | grep -o '/[^ ]*'); do mkdir -p "/srv/jail$(dirname $file)"; cp "$file" "/srv/jail$file"; done
chroot /srv/jail /bin/true
dpkg --verify
cat /mnt/sql/"select name from root_fs where setuid = 1" | sort >/tmp/sql
find / -xdev -perm -4000 | sort >/tmp/find
cmp /tmp/sql /tmp/find
grep -qx /usr/bin/passwd /tmp/sql
echo mine >/root/just-now
test "$(cat /mnt/sql/"select name || ' ' || size from root_fs where base = 'just-now'")" = "/root/just-now 5"
test "$(cat /mnt/sql/"select user from root_fs where name = '/home/bob/letter'")" = bob
! su bob -c 'cat /mnt/sql/"select 1"' 2>/tmp/log
dpkg --purge hello >/tmp/log 2>&1
! test -e /usr/bin/hello
echo all is well
"#;

fn guest_root_is_root(format: Format) {
    need_program("linux.uml", "user-mode-linux");
    let (archive, package) = archive();
    let dir = workplace(&archive);
    create(dir.path(), format);
    // Where he can read it: the way to the cache may be closed to him.
    let debs = dir.path().join("debs");
    fixture::shell(&format!("cp -r {} {}; chmod -R a+rX {1}", package.display(), debs.display()));
    let debs = format!("debs={},ro", debs.display());
    let arguments =
        ["boot", "--root", "humfs:tree", "--share", &debs, "--share", "sql=sqlfs:tree", "--mem", "512M", "--", "sh", "-euxc", WORK];
    let said = text(&externfs(dir.path(), &arguments));
    assert!(said.contains("all is well"), "{said}");
    let shown = text(&externfs(dir.path(), &["stat", "tree", "/home/bob/letter"]));
    assert!(shown.contains("0600"), "{shown}");
    externfs(dir.path(), &["check", "tree"]);
    // The host has one user's files, and nothing on it is setuid.
    let strange = format!("find {0} ! -user {1} -o -perm /6000 -o ! -type l -perm /022", dir.path().join("tree").display(), ordinary::USER);
    assert_eq!(fixture::shell(&strange), "");
}
