-- Version 2: events that only a person can judge, corrections by people, and the time since which a
-- payment has its state.
--
-- Names carry their schema, as everywhere in payproc's SQL, because another schema could have them.

ALTER TYPE payproc.event_type ADD VALUE 'flag';
ALTER TYPE payproc.reason ADD VALUE 'flagged';

-- `updated_at` changed with every ignored entry. state_since replaces it: the time of the last move.
-- It is a new column, because PostgreSQL 18 names a NOT NULL constraint after its column.
ALTER TABLE payproc.payments ADD COLUMN state_since TIMESTAMP WITH TIME ZONE;

WITH entry AS MATERIALIZED (
    SELECT payment_id, position, recorded_at FROM payproc.events
    WHERE state_before OPERATOR(pg_catalog.<>) state_after
    UNION ALL
    SELECT payment_id, position, resolved_at FROM payproc.resolutions
    WHERE state_before OPERATOR(pg_catalog.<>) state_after
), moved AS MATERIALIZED (
    SELECT DISTINCT ON (payment_id) payment_id, recorded_at AS at FROM entry ORDER BY payment_id, position DESC
), since AS MATERIALIZED (
    SELECT payments.payment_id, COALESCE(moved.at, payments.created_at) AS at
    FROM payproc.payments LEFT JOIN moved USING (payment_id)
)
UPDATE payproc.payments SET state_since = since.at FROM since WHERE payments.payment_id = since.payment_id;

ALTER TABLE payproc.payments ALTER COLUMN state_since SET DEFAULT now();
ALTER TABLE payproc.payments ALTER COLUMN state_since SET NOT NULL;
ALTER TABLE payproc.payments DROP COLUMN updated_at;

CREATE TABLE payproc.corrections (
    payment_id TEXT COLLATE "C" NOT NULL,
    position INTEGER NOT NULL,
    state_before payproc.state NOT NULL,
    state_after payproc.state NOT NULL,
    note TEXT NOT NULL,
    corrected_by TEXT NOT NULL,
    corrected_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT corrections_have_one_a_position PRIMARY KEY (payment_id, position)
);

-- record_decisions takes one more list, so it is another procedure. Its body is installed after this file.
CREATE PROCEDURE payproc.record_decisions(
    in_run_id bigint, in_sources text, in_lines text, in_event_ids text, in_payment_ids text, in_kinds text, in_types text,
    in_versions text, in_outcomes text, in_reasons text, in_befores text, in_afters text, in_payloads text,
    INOUT contested text
)
LANGUAGE plpgsql AS 'BEGIN END';

-- Owners and privileges: corrections gets those of resolutions, and the new procedure those of the old one.
DO $grants$
DECLARE
    new_object text;
    old_owner oid;
    old_privileges aclitem[];
    granted record;
BEGIN
    FOR new_object, old_owner, old_privileges IN
        SELECT 'TABLE payproc.corrections', relowner, relacl
        FROM pg_catalog.pg_class WHERE oid = 'payproc.resolutions'::regclass::oid
        UNION ALL
        SELECT 'PROCEDURE payproc.record_decisions(bigint, text, text, text, text, text, text, text, text, text, text, text, '
               || 'text, text)', proowner, proacl
        FROM pg_catalog.pg_proc
        WHERE pronamespace = 'payproc'::regnamespace::oid AND proname = 'record_decisions' AND pronargs = 13::smallint
    LOOP
        EXECUTE pg_catalog.format('ALTER %s OWNER TO %s', new_object, old_owner::regrole::text);
        IF old_privileges IS NOT NULL THEN
            EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM PUBLIC', new_object);
        END IF;
        FOR granted IN
            SELECT privilege.grantee, privilege.privilege_type AS privilege, privilege.is_grantable
            FROM pg_catalog.aclexplode(old_privileges) AS privilege WHERE privilege.grantee <> old_owner
        LOOP
            EXECUTE pg_catalog.format(
                'GRANT %s ON %s TO %s%s',
                granted.privilege,
                new_object,
                CASE WHEN granted.grantee = 0::oid THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,
                CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            );
        END LOOP;
    END LOOP;
END
$grants$;

DROP PROCEDURE payproc.record_decisions(
    bigint, text, text, text, text, text, text, text, text, text, text, text, text
);

ALTER TABLE payproc.runs ADD COLUMN label TEXT;

-- Room on each page for the new version of a row, so that no index entry is needed for it.
ALTER TABLE payproc.payments SET (fillfactor = 90);
