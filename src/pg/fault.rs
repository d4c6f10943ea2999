//! Faults that tests put in on purpose, to see what stands behind the first line. Only a build with the feature
//! `fault_injection` has them; in any other build every question is answered by a constant.

/// Whether the planner hook leaves masks out.
#[cfg(not(feature = "fault_injection"))]
pub const fn skips_substitution() -> bool {
    false
}

/// Whether statements of the executor are not recorded: what one event costs is told from a run without them.
#[cfg(not(feature = "fault_injection"))]
#[inline]
pub const fn skips_record() -> bool {
    false
}

#[cfg(feature = "fault_injection")]
static SKIP_RECORD: pgrx::GucSetting<bool> = pgrx::GucSetting::<bool>::new(false);

/// Whether statements of the executor are not recorded: what one event costs is told from a run without them.
#[cfg(feature = "fault_injection")]
pub fn skips_record() -> bool {
    SKIP_RECORD.get()
}

#[cfg(feature = "fault_injection")]
static SKIP_SUBSTITUTION: pgrx::GucSetting<bool> = pgrx::GucSetting::<bool>::new(false);

/// Whether the planner hook leaves masks out.
#[cfg(feature = "fault_injection")]
pub fn skips_substitution() -> bool {
    SKIP_SUBSTITUTION.get()
}

/// Defines the settings that put faults in; called from `_PG_init`.
#[cfg(feature = "fault_injection")]
pub fn init() {
    pgrx::GucRegistry::define_bool_guc(
        c"agent_guard.fault_skip_substitution",
        c"Leaves masks and row filters out of plans.",
        c"For tests of what stands behind.",
        &SKIP_SUBSTITUTION,
        pgrx::GucContext::Suset,
        pgrx::GucFlags::default(),
    );
    pgrx::GucRegistry::define_bool_guc(
        c"agent_guard.fault_skip_record",
        c"Does not record statements.",
        c"For the benchmark of what an event costs.",
        &SKIP_RECORD,
        pgrx::GucContext::Suset,
        pgrx::GucFlags::default(),
    );
}
