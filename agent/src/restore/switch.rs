//! Where a restore happens: the target, the work directory beside it, and the step that exchanges them.

use std::path::{Path, PathBuf};

use std::os::unix::ffi::OsStrExt;

use understudy_protocol::Name;
use understudy_tree::attributes::{drop_default_acl, make_accessible};
use understudy_tree::{Directory, Kind, Mounts, TreeError, remove};

use super::{Existing, Manner, RestoreRequest};
use crate::error::AgentError;
use crate::lock;

/// The target and its surroundings.
#[derive(Debug)]
pub(super) struct Site {
    parent: Directory,
    parent_path: PathBuf,
    name: Name,
    /// What stands at the target.
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Nothing,
    EmptyDirectory,
    Tree,
}

/// The tree that is being made.
#[derive(Debug)]
pub(super) struct Work {
    /// Its root.
    pub(super) directory: Directory,
    /// Whether an earlier run left something in it.
    pub(super) is_resumed: bool,
}

impl Site {
    /// Looks at the target; fails if nothing may be restored there.
    pub(super) fn find(request: &RestoreRequest) -> Result<Self, AgentError> {
        let target = &request.target;
        let refuse = |reason: String| AgentError::Target {
            path: target.clone(),
            reason,
        };
        let Some(name) = target.file_name() else {
            return Err(refuse("its last component is not a name".to_owned()));
        };
        let name = Name::new(name.as_bytes()).map_err(|error| refuse(error.to_string()))?;
        let parent = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let parent_path = std::fs::canonicalize(parent).map_err(|error| {
            refuse(format!(
                "its parent directory `{}` cannot be used: {error}",
                parent.display()
            ))
        })?;
        let parent = Directory::open(&parent_path, Mounts::Cross)?;
        let standing = match parent.stat_if_present(&name)? {
            None => Standing::Nothing,
            Some(stat) if stat.kind != Kind::Directory => {
                return Err(refuse(
                    "something that is no directory stands there".to_owned(),
                ));
            }
            Some(stat) if stat.mount_root => {
                return Err(refuse(
                    "it is a mount point, which cannot be exchanged; name a directory in it"
                        .to_owned(),
                ));
            }
            Some(_) if parent.open_directory(&name)?.names()?.is_empty() => {
                Standing::EmptyDirectory
            }
            Some(_) => Standing::Tree,
        };
        let site = Self {
            parent,
            parent_path,
            name,
            standing,
        };
        if standing == Standing::Tree
            && request.existing == Existing::Refuse
            && !(request.manner == Manner::Progressive && site.has_scratch()?)
        {
            return Err(AgentError::TargetExists {
                path: target.clone(),
            });
        }
        Ok(site)
    }

    /// The target's path.
    pub(super) fn target(&self) -> PathBuf {
        self.parent_path.join(self.name.as_os_str())
    }

    /// The tree at the target, if there is one that may serve as a base.
    pub(super) fn open_target(&self) -> Result<Option<Directory>, AgentError> {
        if self.standing == Standing::Tree {
            Ok(Some(self.parent.open_directory(&self.name)?))
        } else {
            Ok(None)
        }
    }

    /// Makes or opens the work directory.
    pub(super) fn open_work(&self) -> Result<Work, AgentError> {
        let name = self.work_name()?;
        let is_resumed = self.parent.stat_if_present(&name)?.is_some();
        if is_resumed {
            make_accessible(&self.parent, &name)?;
        }
        let directory = self.take(&name)?;
        // Neither an ACL nor the group of a set-group-id directory around it may come down to the files in it.
        drop_default_acl(&directory)?;
        directory.set_mode(0o700)?;
        Ok(Work {
            directory,
            is_resumed,
        })
    }

    /// Makes or opens a directory beside the target that nobody else works in as long as it is open.
    fn take(&self, name: &Name) -> Result<Directory, AgentError> {
        let directory = self.parent.ensure_directory(name)?;
        let is_ours = lock::try_lock_directory(&directory)
            .map_err(|error| AgentError::state("lock", self.path_beside(name), &error))?;
        // One that somebody has just finished with is called otherwise by now.
        let stands = self.parent.stat_if_present(name)?;
        let is_it = stands.map(|stat| stat.identity) == Some(directory.stat_self()?.identity);
        if is_ours && is_it {
            return Ok(directory);
        }
        Err(AgentError::Target {
            path: self.target(),
            reason: "another restore is writing there; wait until it has ended".to_owned(),
        })
    }

    /// The directory that holds the tree that is being made, with its name there.
    pub(super) fn work_place(&self, manner: Manner) -> Result<(&Directory, Name), AgentError> {
        match manner {
            Manner::Switch => Ok((&self.parent, self.work_name()?)),
            Manner::Progressive => Ok((&self.parent, self.name.clone())),
        }
    }

    /// Makes or opens the target itself, to work in it; what is mounted in it is not entered.
    pub(super) fn open_in_place(&self) -> Result<Work, AgentError> {
        let directory = self.parent.ensure_directory(&self.name)?.without_mounts();
        Ok(Work {
            directory,
            is_resumed: true,
        })
    }

    /// Whether an interrupted run that worked in the target has left its scratch directory.
    fn has_scratch(&self) -> Result<bool, AgentError> {
        let stat = self.parent.stat_if_present(&self.scratch_name()?)?;
        Ok(stat.is_some_and(|stat| stat.kind == Kind::Directory))
    }

    /// Makes or opens the directory in which entries are made before they get their place in the target.
    pub(super) fn open_scratch(&self) -> Result<Directory, AgentError> {
        let directory = self.take(&self.scratch_name()?)?;
        drop_default_acl(&directory)?;
        directory.set_mode(0o700)?;
        Ok(directory)
    }

    /// Removes the scratch directory, which must be empty.
    pub(super) fn remove_scratch(&self) -> Result<(), AgentError> {
        Ok(self.parent.remove_directory(&self.scratch_name()?)?)
    }

    /// Makes the directory for what has to go from the target.
    pub(super) fn make_kept(&self) -> Result<(Name, Directory), AgentError> {
        let name = self.kept_name()?;
        self.parent.create_directory(&name)?;
        let directory = self.parent.open_directory(&name)?;
        Ok((name, directory))
    }

    /// A name beside the target for what has to go from there, which nothing has yet.
    fn kept_name(&self) -> Result<Name, AgentError> {
        let stamp = stamp();
        let mut name = self.beside(format!(".before-restore-{stamp}").as_bytes())?;
        let mut number = 1;
        while self.parent.stat_if_present(&name)?.is_some() {
            number += 1;
            name = self.beside(format!(".before-restore-{stamp}-{number}").as_bytes())?;
        }
        Ok(name)
    }

    /// The path of something beside the target.
    pub(super) fn path_beside(&self, name: &Name) -> PathBuf {
        self.parent_path.join(name.as_os_str())
    }

    /// A name that is made here.
    pub(super) fn name(&self, bytes: Vec<u8>) -> Result<Name, AgentError> {
        Name::new(bytes).map_err(|error| AgentError::Target {
            path: self.target(),
            reason: error.to_string(),
        })
    }

    /// Removes what an earlier run left and this one does not want.
    pub(super) fn discard(&self, directory: &Directory, name: &Name) -> Result<(), AgentError> {
        let trash_name = self.beside(b".understudy-trash")?;
        let trash = self.parent.ensure_directory(&trash_name)?;
        remove::tree(directory, name, &trash)?;
        Ok(self.parent.remove_directory(&trash_name)?)
    }

    /// Puts the finished tree in the target's place in one step; returns where the former tree is kept.
    pub(super) fn switch(&self) -> Result<Option<PathBuf>, AgentError> {
        let work = self.work_name()?;
        let kept = match self.standing {
            Standing::Nothing => {
                self.parent.rename_new(&work, &self.parent, &self.name)?;
                None
            }
            Standing::EmptyDirectory => {
                self.parent.rename(&work, &self.parent, &self.name)?;
                None
            }
            Standing::Tree => Some(self.exchange(&work)?),
        };
        self.parent.sync()?;
        Ok(kept.map(|name| self.path_beside(&name)))
    }

    /// The work directory takes the name under which the former tree will be kept before the two are exchanged:
    /// at no moment is the former tree called like a work directory, which the next run may change.
    fn exchange(&self, work: &Name) -> Result<Name, AgentError> {
        let kept = self.kept_name()?;
        self.parent.rename_new(work, &self.parent, &kept)?;
        self.parent
            .exchange(&kept, &self.parent, &self.name)
            .map_err(|error| self.undo(&kept, work, error))?;
        Ok(kept)
    }

    fn undo(&self, kept: &Name, work: &Name, error: TreeError) -> AgentError {
        // The first error says what is wrong; a tree under the wrong name harms nobody.
        let _ = self.parent.rename_new(kept, &self.parent, work);
        error.into()
    }

    fn work_name(&self) -> Result<Name, AgentError> {
        self.beside(b".understudy-restore")
    }

    fn scratch_name(&self) -> Result<Name, AgentError> {
        self.beside(b".understudy-progressive")
    }

    fn beside(&self, suffix: &[u8]) -> Result<Name, AgentError> {
        self.name([self.name.as_bytes(), suffix].concat())
    }
}

fn stamp() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}
