//! What was dumped of databases, restored beside the files of the same snapshot: it appears when they do.

use std::path::Path;

use super::plan::Plan;
use super::switch::{Site, Work};
use super::telling::Telling;
use super::{Existing, Line, Manner, RestoreReport, RestoreRequest, fill, lost, of_plan};
use crate::Context;
use crate::error::AgentError;

/// Where the dumps are to be.
pub(super) struct Place {
    request: RestoreRequest,
    site: Site,
}

/// The dumps of one snapshot on their way there.
pub(super) struct Databases<'a> {
    place: &'a Place,
    plan: Plan,
    pub(super) report: RestoreReport,
}

impl Place {
    /// Looks at the directory, if one is asked for; fails if nothing may be restored there.
    pub(super) fn find(
        request: &RestoreRequest,
        target: &Path,
    ) -> Result<Option<Self>, AgentError> {
        let Some(path) = &request.databases else {
            return Ok(None);
        };
        let request = RestoreRequest {
            target: path.clone(),
            databases: None,
            first: Vec::new(),
            existing: Existing::Refuse,
            manner: Manner::Switch,
            announced: (0, 0),
            ..request.clone()
        };
        let site = Site::find(&request)?;
        let found = site.target();
        if found.starts_with(target) || target.starts_with(&found) {
            return Err(AgentError::Target {
                path: path.clone(),
                reason: format!(
                    "databases need a directory beside `{}`, not one in it or around it",
                    target.display()
                ),
            });
        }
        Ok(Some(Self { request, site }))
    }
}

impl<'a> Databases<'a> {
    /// Of a plan, whatever is lost of it left out.
    pub(super) fn new(
        place: &'a Place,
        mut plan: Plan,
        lost: &lost::Contents,
    ) -> Result<Self, AgentError> {
        let request = &place.request;
        let mut report = of_plan(&mut plan, request, &place.site, lost)?;
        for path in report.fuzzy.iter_mut().chain(&mut report.left_out) {
            *path = plan.told(path);
        }
        Ok(Self {
            place,
            plan,
            report,
        })
    }

    /// Says how much of it comes later than the files.
    pub(super) fn announce(&self, context: &Context) {
        context.progress.announce(self.amount());
    }

    fn amount(&self) -> (u64, u64) {
        (self.report.files, self.report.bytes)
    }

    /// Makes the tree, verified and durable; nothing stands at its place yet.
    pub(super) fn fill(
        &mut self,
        line: &mut Line<'_>,
        context: &Context,
        telling: &mut Telling,
    ) -> Result<Work, AgentError> {
        let request = RestoreRequest {
            announced: self.amount(),
            ..self.place.request.clone()
        };
        let site = &self.place.site;
        let work = site.open_work()?;
        let place = (site, &work, None);
        let told = (&mut self.report, telling);
        fill(line, &request, &self.plan, place, context, told)?;
        work.directory.sync_file_system()?;
        Ok(work)
    }

    /// Lets what was made appear.
    pub(super) fn appear(&self, work: Work) -> Result<(), AgentError> {
        self.place.site.switch()?;
        drop(work);
        Ok(())
    }
}
