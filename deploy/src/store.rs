//! The ticket files and secrets a node holds.
//!
//! ```text
//!   DATA/tickets/<build>/roster.json .sig  files/000012.hbt    pushed by operators, verified on arrival
//!                        seal-a1.key                           this node's own seal key
//!   DATA/secrets/<build>/sign.pub                              every node: whose rosters it trusts
//!                        build.key seal.key                    nodes that open
//!                        manifest.json .sig                    nodes that settle
//! ```
//! Invariant: a file counts as verified only after its digest in the signed roster was found equal,
//! on this disk. Secrets never travel through the admin endpoints.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use access::node::{build_dir as build_dir_of, seal_key_path};
use parking_lot::Mutex;
use ticket::digest::Digest;
use ticket::file::TicketFile;
use ticket::id::{BuildId, FileNo};
use ticket::keys::SealMaster;
use ticket::manifest::{FileEntry, Roster, load_signed, signature_path};
use ticket::sign::VerifyingKey;
use world::NodeId;
use world::disk::Disk;

use crate::failure::{Context, Exit, Failure};
use crate::serve::api::BuildReport;

/// What a node needs of a build's `keys` folder.
const OPENER_SECRETS: [&str; 2] = ["build.key", "seal.key"];

/// See the module.
pub struct TicketStore {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    node: NodeId,
    verified: Mutex<Option<(BuildId, BTreeSet<FileNo>)>>,
}

impl TicketStore {
    /// The store below `data_dir`.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path, node: NodeId) -> TicketStore {
        TicketStore { disk, data_dir: data_dir.to_owned(), node, verified: Mutex::new(None) }
    }

    /// Where a build's files lie.
    #[must_use]
    pub fn tickets_dir(&self, build: BuildId) -> PathBuf {
        build_dir_of(&self.data_dir, build)
    }

    /// Where a build's secrets lie.
    #[must_use]
    pub fn secrets_dir(&self, build: BuildId) -> PathBuf {
        self.data_dir.join("secrets").join(build.to_string())
    }

    /// The signed roster of a build.
    ///
    /// # Errors
    /// Exit code 3 when it was not pushed, 5 when its secrets are not installed, 8 when it is not
    /// signed by the key that is trusted.
    pub fn roster(&self, build: BuildId) -> Result<Roster, Failure> {
        let path = self.tickets_dir(build).join("roster.json");
        if !self.disk.exists(&path) {
            return Err(Failure::new(
                Exit::NotFound,
                format!("build {build} was not pushed to {}", self.node),
            ));
        }
        let trusted = self.trusted_key(build)?;
        let roster: Roster =
            load_signed(&*self.disk, &path, &trusted).context(Exit::Unverified, "reading the roster")?;
        if roster.build != build {
            return Err(Failure::new(Exit::Unverified, format!("the roster is of build {}", roster.build)));
        }
        Ok(roster)
    }

    /// Takes a pushed roster.
    ///
    /// # Errors
    /// As [`TicketStore::roster`]; what was there before stays when the new one is not genuine.
    pub fn put_roster(&self, build: BuildId, bytes: &[u8], signature: &str) -> Result<BuildReport, Failure> {
        let trusted = self.trusted_key(build)?;
        let parsed = signature.trim().parse().context(Exit::Usage, "reading the signature")?;
        let domain = <Roster as ticket::manifest::Signed>::DOMAIN;
        trusted
            .verify(domain, bytes, &parsed)
            .context(Exit::Unverified, "checking the roster's signature")?;
        let dir = self.tickets_dir(build);
        let path = dir.join("roster.json");
        self.disk.create_dir_all(&dir.join("files")).context(Exit::Error, "making the build's folder")?;
        let text = format!("{}\n", signature.trim());
        self.disk
            .publish(&signature_path(&path), text.as_bytes())
            .context(Exit::Error, "writing the roster")?;
        self.disk.publish(&path, bytes).context(Exit::Error, "writing the roster")?;
        self.report(build)
    }

    /// Takes a pushed file.
    ///
    /// # Errors
    /// Exit code 8 when it is not the file the roster names.
    pub fn put_file(&self, build: BuildId, no: FileNo, bytes: &[u8]) -> Result<BuildReport, Failure> {
        let roster = self.roster(build)?;
        let entry = self.entry(&roster, no)?;
        if Digest::of(bytes) != entry.digest {
            let message =
                format!("file {no} is not the one in the roster of build {build}: build it or copy it again");
            return Err(Failure::new(Exit::Unverified, message));
        }
        let path = entry.path_in(&self.tickets_dir(build));
        self.disk.publish(&path, bytes).context(Exit::Error, format!("writing file {no}"))?;
        TicketFile::load(&*self.disk, &path, entry).context(Exit::Unverified, "reading it back")?;
        self.note_verified(build, no);
        self.report(build)
    }

    /// Which files of a build this node has to hold, and which it has verified.
    ///
    /// # Errors
    /// As [`TicketStore::roster`].
    pub fn report(&self, build: BuildId) -> Result<BuildReport, Failure> {
        let roster = self.roster(build)?;
        let expected = roster
            .files
            .iter()
            .filter(|file| file.holders.contains(&self.node))
            .map(|file| file.no)
            .collect();
        let verified = self.verified_files(&roster);
        Ok(BuildReport { build, expected, verified: verified.into_iter().collect() })
    }

    /// The files of a build that this node holds and has verified. Only the first call after a start reads the
    /// roster and them.
    ///
    /// # Errors
    /// As [`TicketStore::roster`].
    pub fn verified(&self, build: BuildId) -> Result<BTreeSet<FileNo>, Failure> {
        if let Some((of, files)) = &*self.verified.lock()
            && *of == build
        {
            return Ok(files.clone());
        }
        Ok(self.verified_files(&self.roster(build)?))
    }

    /// The verified files of a build. The first call after a start reads them all.
    fn verified_files(&self, roster: &Roster) -> BTreeSet<FileNo> {
        let mut known = self.verified.lock();
        match &*known {
            Some((build, files)) if *build == roster.build => files.clone(),
            _ => {
                let dir = self.tickets_dir(roster.build);
                let mine = roster.files.iter().filter(|file| file.holders.contains(&self.node));
                let genuine = |file: &&FileEntry| {
                    let path = file.path_in(&dir);
                    self.disk.exists(&path) && TicketFile::load(&*self.disk, &path, file).is_ok()
                };
                let files: BTreeSet<FileNo> = mine.filter(genuine).map(|file| file.no).collect();
                *known = Some((roster.build, files.clone()));
                files
            }
        }
    }

    fn note_verified(&self, build: BuildId, no: FileNo) {
        if let Some((of, files)) = &mut *self.verified.lock()
            && *of == build
        {
            files.insert(no);
        }
    }

    fn entry<'r>(&self, roster: &'r Roster, no: FileNo) -> Result<&'r FileEntry, Failure> {
        let entry = roster.files.iter().find(|file| file.no == no);
        let entry =
            entry.ok_or_else(|| Failure::new(Exit::NotFound, format!("the roster has no file {no}")))?;
        if !entry.holders.contains(&self.node) {
            let message = format!("file {no} does not belong on {}: see `holders` in the roster", self.node);
            return Err(Failure::new(Exit::Usage, message));
        }
        Ok(entry)
    }

    fn trusted_key(&self, build: BuildId) -> Result<VerifyingKey, Failure> {
        let path = self.secrets_dir(build).join("sign.pub");
        if !self.disk.exists(&path) {
            let cure = format!("run `hongbao deploy keys --build DIR --node {}` on that node", self.node);
            return Err(Failure::new(
                Exit::Denied,
                format!("{} has no secrets of build {build}: {cure}", self.node),
            ));
        }
        VerifyingKey::load(&*self.disk, &path).context(Exit::Denied, "reading sign.pub")
    }
}

/// Copies what a node needs from a build directory's keys to the node's own disk.
///
/// # Errors
/// When something cannot be read or written.
pub fn install_secrets(
    disk: &dyn Disk,
    source_dir: &Path,
    build: BuildId,
    node: NodeId,
    data_dir: &Path,
) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let doing = |what: &str| format!("installing {what} of build {build} on {node}");
    let target = data_dir.join("secrets").join(build.to_string());
    disk.create_dir_all(&target).context(Exit::Error, doing("the folder"))?;
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&target, private).context(Exit::Error, doing("the folder"))?;
    let keys = source_dir.join("keys");
    let master = SealMaster::load(disk, &keys.join("seal.key")).context(Exit::Denied, doing("seal.key"))?;
    let sources = OPENER_SECRETS.map(|name| (keys.join(name), name));
    let documents = ["manifest.json", "manifest.json.sig"].map(|name| (source_dir.join(name), name));
    for (source, name) in sources.into_iter().chain(documents) {
        let bytes = disk.read(&source).context(Exit::Denied, doing(name))?;
        disk.publish(&target.join(name), &bytes).context(Exit::Error, doing(name))?;
    }
    let seal = seal_key_path(data_dir, build, node);
    disk.create_dir_all(&build_dir_of(data_dir, build)).context(Exit::Error, doing("the folder"))?;
    master.node_key(node).publish(&seal).context(Exit::Error, doing("its seal key"))?;
    // Last: a node takes a roster only once this is there.
    let public = disk.read(&keys.join("sign.pub")).context(Exit::Denied, doing("sign.pub"))?;
    disk.publish(&target.join("sign.pub"), &public).context(Exit::Error, doing("sign.pub"))
}
