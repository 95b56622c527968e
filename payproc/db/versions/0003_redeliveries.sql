-- Version 3: events that were delivered again with other content.
--
-- Names carry their schema, as everywhere in payproc's SQL, because another schema could have them.

CREATE TABLE payproc.redeliveries (
    event_id TEXT COLLATE "C" NOT NULL,
    digest BYTEA NOT NULL,
    source INTEGER NOT NULL,
    run_id BIGINT NOT NULL,
    line BIGINT NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    payload JSON NOT NULL,
    CONSTRAINT redeliveries_are_recorded_once PRIMARY KEY (event_id, digest)
);

-- Owner and privileges are those of event_conflicts.
DO $grants$
DECLARE
    old_owner oid;
    old_privileges aclitem[];
    granted record;
BEGIN
    SELECT relowner, relacl INTO old_owner, old_privileges
    FROM pg_catalog.pg_class WHERE oid = 'payproc.event_conflicts'::regclass::oid;
    EXECUTE pg_catalog.format('ALTER TABLE payproc.redeliveries OWNER TO %s', old_owner::regrole::text);
    IF old_privileges IS NOT NULL THEN
        REVOKE ALL ON TABLE payproc.redeliveries FROM PUBLIC;
    END IF;
    FOR granted IN
        SELECT privilege.grantee, privilege.privilege_type AS privilege, privilege.is_grantable
        FROM pg_catalog.aclexplode(old_privileges) AS privilege WHERE privilege.grantee <> old_owner
    LOOP
        EXECUTE pg_catalog.format(
            'GRANT %s ON TABLE payproc.redeliveries TO %s%s',
            granted.privilege,
            CASE WHEN granted.grantee = 0::oid THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,
            CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
        );
    END LOOP;
END
$grants$;
