-- All that the extension consists of, in lines without oids, so that those of
-- two databases can be compared: each object, what is part of it, and all that
-- was said of it.
SET search_path = pg_catalog;
SET jit = off;
WITH RECURSIVE object (classid, objid) AS (
    SELECT o.* FROM pg_extension x,
    LATERAL (VALUES ('pg_extension'::regclass, x.oid), ('pg_namespace', x.extnamespace)) o
    WHERE x.extname = 'outbox'
    UNION
    SELECT d.classid::regclass, d.objid FROM object o
    JOIN pg_depend d ON d.refclassid = o.classid AND d.refobjid = o.objid AND d.deptype IN ('e', 'i', 'a', 'P', 'S')
)
SELECT replace(concat_ws(' ', i.type, i.identity, a.attname, p.property), E'\n', '\n')
FROM object o
CROSS JOIN LATERAL (
    SELECT 0 AS part, 'exists' AS property
    UNION ALL
    SELECT objsubid, 'comment: ' || description FROM pg_description
    WHERE classoid = o.classid AND objoid = o.objid
    UNION ALL
    SELECT 0, ROW(x.extversion, x.extrelocatable, x.extnamespace::regnamespace, x.extowner::regrole)::text
    FROM pg_extension x WHERE o.classid = 'pg_extension'::regclass AND x.oid = o.objid
    UNION ALL
    SELECT 0, 'dumps ' || ROW(c.relation::regclass, c.condition)::text
    FROM pg_extension x, unnest(x.extconfig, x.extcondition) c (relation, condition)
    WHERE o.classid = 'pg_extension'::regclass AND x.oid = o.objid
    UNION ALL
    SELECT 0, ROW(c.relkind, c.relpersistence, m.amname, c.reltablespace, c.reloptions, c.relreplident, c.relrowsecurity,
                  c.relforcerowsecurity, c.relispopulated, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
                  t.oid IS NOT NULL, t.reloptions)::text
    FROM pg_class c LEFT JOIN pg_am m ON m.oid = c.relam LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    WHERE o.classid = 'pg_class'::regclass AND c.oid = o.objid
    UNION ALL
    SELECT 0, ROW(pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisclustered, x.indisreplident)::text
    FROM pg_index x WHERE o.classid = 'pg_class'::regclass AND x.indexrelid = o.objid
    UNION ALL
    SELECT 0, ROW(s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)::text
    FROM pg_sequence s WHERE o.classid = 'pg_class'::regclass AND s.seqrelid = o.objid
    UNION ALL
    SELECT 0, ROW(h.inhparent::regclass, h.inhseqno)::text
    FROM pg_inherits h WHERE o.classid = 'pg_class'::regclass AND h.inhrelid = o.objid
    UNION ALL
    -- their order counts, but not where columns were dropped, nor what a server
    -- notes in their options for itself
    SELECT a.attnum, ROW(rank() OVER (ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attcollation::regcollation,
                         a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attstorage,
                         a.attcompression, a.attstattarget, ARRAY(SELECT v FROM unnest(a.attoptions) v WHERE v !~ '^pg_'),
                         a.attislocal, a.attinhcount, a.attacl)::text
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE o.classid = 'pg_class'::regclass AND a.attrelid = o.objid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 0, ROW(pg_get_constraintdef(c.oid), c.convalidated, c.connoinherit, c.conislocal, c.coninhcount)::text
    FROM pg_constraint c WHERE o.classid = 'pg_constraint'::regclass AND c.oid = o.objid
    UNION ALL
    SELECT 0, ROW(pg_get_triggerdef(t.oid), t.tgenabled)::text
    FROM pg_trigger t WHERE o.classid = 'pg_trigger'::regclass AND t.oid = o.objid
    UNION ALL
    SELECT 0, ROW(pg_get_ruledef(r.oid), r.ev_enabled)::text
    FROM pg_rewrite r WHERE o.classid = 'pg_rewrite'::regclass AND r.oid = o.objid
    UNION ALL
    SELECT 0, ROW(t.evtevent, t.evttags, t.evtfoid::regprocedure, t.evtenabled, t.evtowner::regrole)::text
    FROM pg_event_trigger t WHERE o.classid = 'pg_event_trigger'::regclass AND t.oid = o.objid
    UNION ALL
    SELECT 0, CASE WHEN f.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(f.oid) END
    FROM pg_proc f WHERE o.classid = 'pg_proc'::regclass AND f.oid = o.objid
    UNION ALL
    SELECT 0, ROW(t.typtype, t.typcategory, t.typstorage, format_type(t.typbasetype, t.typtypmod), t.typnotnull,
                  t.typcollation::regcollation, t.typdefault)::text
    FROM pg_type t WHERE o.classid = 'pg_type'::regclass AND t.oid = o.objid
    UNION ALL
    SELECT 0, ROW(w.fdwhandler::regproc, w.fdwvalidator::regproc, w.fdwoptions)::text
    FROM pg_foreign_data_wrapper w WHERE o.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = o.objid
    UNION ALL
    SELECT 0, ROW(c.opcintype::regtype, c.opckeytype::regtype, c.opcdefault, c.opcowner::regrole)::text
    FROM pg_opclass c WHERE o.classid = 'pg_opclass'::regclass AND c.oid = o.objid
    UNION ALL
    SELECT 0, ROW(s.amopopr::regoperator, s.amoppurpose)::text
    FROM pg_amop s WHERE o.classid = 'pg_amop'::regclass AND s.oid = o.objid
    UNION ALL
    SELECT 0, s.amproc::regprocedure::text
    FROM pg_amproc s WHERE o.classid = 'pg_amproc'::regclass AND s.oid = o.objid
    UNION ALL
    -- no rights noted are those that the owner has and, of functions, PUBLIC;
    -- the initial ones tell pg_dump which were granted since
    SELECT 0, format('owner %s, rights %s, initially %s', r.owner::regrole,
                     ARRAY(SELECT item::text FROM unnest(coalesce(r.acl, r.implied)) item ORDER BY 1),
                     ARRAY(SELECT item::text FROM unnest(coalesce(n.initprivs, r.implied)) item ORDER BY 1))
    FROM (
        SELECT nspowner AS owner, nspacl AS acl, acldefault('n', nspowner) AS implied FROM pg_namespace
        WHERE o.classid = 'pg_namespace'::regclass AND oid = o.objid
        UNION ALL
        SELECT relowner, relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner) FROM pg_class
        WHERE o.classid = 'pg_class'::regclass AND oid = o.objid
        UNION ALL
        SELECT proowner, proacl, acldefault('f', proowner) FROM pg_proc
        WHERE o.classid = 'pg_proc'::regclass AND oid = o.objid
        UNION ALL
        SELECT typowner, typacl, acldefault('T', typowner) FROM pg_type
        WHERE o.classid = 'pg_type'::regclass AND oid = o.objid
        UNION ALL
        SELECT fdwowner, fdwacl, acldefault('F', fdwowner) FROM pg_foreign_data_wrapper
        WHERE o.classid = 'pg_foreign_data_wrapper'::regclass AND oid = o.objid
    ) r
    LEFT JOIN pg_init_privs n ON n.classoid = o.classid AND n.objoid = o.objid AND n.objsubid = 0
) p
CROSS JOIN LATERAL pg_identify_object(o.classid, o.objid, 0) i
LEFT JOIN pg_attribute a ON p.part <> 0 AND o.classid = 'pg_class'::regclass AND a.attrelid = o.objid AND a.attnum = p.part
-- names of these have oids
WHERE i.schema IS DISTINCT FROM 'pg_toast'
  AND NOT EXISTS (SELECT FROM pg_trigger t WHERE o.classid = 'pg_trigger'::regclass AND t.oid = o.objid AND t.tgisinternal)
ORDER BY 1;
