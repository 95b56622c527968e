-- Views for psql, dashboards and other programs that read.
--
-- Their columns have the names of the fields of `--format json`, and text in place of ENUMs. A
-- column is never renamed, removed or moved: CREATE OR REPLACE VIEW takes only new columns at the
-- end. So a query over them works with every later payproc.
--
-- Names that another schema could shadow carry their schema, as in record_decisions.sql. {legal}
-- stands for the pairs of state and type that the decision table applies, {pending} for pending
-- reviews, {event_ids} for the table that says whose an event_id is.

CREATE OR REPLACE VIEW payproc.report_payments AS
WITH pending AS (
    SELECT events.payment_id, count(*) AS waiting
    FROM {pending}
    GROUP BY events.payment_id
)
SELECT payment_id, state::text AS state, state_since, version, created_at, COALESCE(waiting, 0) AS waiting
FROM payproc.payments LEFT JOIN pending USING (payment_id);

CREATE OR REPLACE VIEW payproc.report_history AS
WITH entry AS (
    SELECT payment_id, 'event' AS kind, position, event_id, type::text AS type, outcome::text AS outcome,
           reason::text AS reason, NULL AS resolution, state_before::text AS state_before,
           state_after::text AS state_after, recorded_at, run_id, source, line, NULL AS note, NULL AS resolved_by,
           NULL AS corrected_by, NULL AS recorded_payment_id, NULL AS recorded_type, payload, NULL::boolean AS differs
    FROM payproc.events
    UNION ALL
    SELECT payment_id, 'resolution', position, event_id, NULL, NULL, NULL, resolution::text, state_before::text,
           state_after::text, resolved_at, NULL, NULL, NULL, note, resolved_by, NULL, NULL, NULL, NULL, NULL
    FROM payproc.resolutions
    UNION ALL
    SELECT payment_id, 'correction', position, NULL, NULL, NULL, NULL, NULL, state_before::text, state_after::text,
           corrected_at, NULL, NULL, NULL, note, NULL, corrected_by, NULL, NULL, NULL, NULL
    FROM payproc.corrections
    UNION ALL
    SELECT conflict.payment_id, 'conflict', NULL, event_id, conflict.type::text, 'REJECT', 'event_id_conflict', NULL,
           NULL, NULL, conflict.recorded_at, conflict.run_id, conflict.source, conflict.line, NULL, NULL, NULL,
           original.payment_id, original.type::text, conflict.payload, NULL
    FROM payproc.event_conflicts AS conflict JOIN payproc.{event_ids} AS original USING (event_id)
    UNION ALL
    SELECT original.payment_id, 'conflict', NULL, event_id, original.type::text, 'IGNORE', 'duplicate_event', NULL,
           NULL, NULL, redelivery.recorded_at, redelivery.run_id, redelivery.source, redelivery.line, NULL, NULL, NULL,
           original.payment_id, original.type::text, redelivery.payload, true
    FROM payproc.redeliveries AS redelivery JOIN payproc.{event_ids} AS original USING (event_id)
)
SELECT payment_id, kind, position, event_id, type, outcome, reason, resolution, state_before, state_after, recorded_at,
       run_id,
       COALESCE((SELECT runs.sources[entry.source + 1] FROM payproc.runs WHERE runs.run_id = entry.run_id),
                'source ' || entry.source::text) AS source,
       line, note, resolved_by, corrected_by, recorded_payment_id, recorded_type, payload, differs
FROM entry;

CREATE OR REPLACE VIEW payproc.report_queue AS
WITH event AS MATERIALIZED (
    SELECT events.event_id, events.payment_id, events.type::text AS type, events.reason::text AS reason,
           events.state_before::text AS state_when_flagged, events.recorded_at, events.run_id, events.source,
           events.line, events.payload
    FROM {pending}
)
SELECT event_id, payment_id, payments.state::text AS state, payments.version, type, reason,
       (payments.state::text, type) IN ({legal}) AS legal_now, state_when_flagged, recorded_at, run_id,
       COALESCE(runs.sources[event.source + 1], 'source ' || event.source::text) AS source, line, payload
FROM event JOIN payproc.payments USING (payment_id) LEFT JOIN payproc.runs USING (run_id);

CREATE OR REPLACE VIEW payproc.report_runs AS
SELECT run_id, label, pg_catalog.array_to_string(sources, ', ') AS source, started_at, active_at, finished_at, lines,
       malformed, lines - malformed AS events, applied, ignored, rejected, manual_review
FROM payproc.runs;

-- Views read with their owner's rights. Without this, a superuser who upgrades the schema would own
-- them.
DO $owner$
DECLARE
    view_name text;
BEGIN
    FOREACH view_name IN ARRAY ARRAY['report_payments', 'report_history', 'report_queue', 'report_runs']
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER VIEW payproc.%s OWNER TO %s',
            view_name,
            (SELECT relowner::regrole::text FROM pg_catalog.pg_class WHERE oid = 'payproc.runs'::regclass::oid)
        );
    END LOOP;
END
$owner$;
