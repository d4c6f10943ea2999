-- The extension stands as built: preloaded, in its own schema, at the version of the control file.
show shared_preload_libraries;
select extname, extrelocatable from pg_extension where extname = 'agent_guard';
select e.extversion = a.default_version as is_default
  from pg_extension e join pg_available_extensions a on a.name = e.extname where e.extname = 'agent_guard';
