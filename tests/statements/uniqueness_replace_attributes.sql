INSERT INTO pgqrs.pgqrs_attributes (workflow_id, attributes, tags) SELECT attributes_rows.owner_id, CAST(attributes_rows.attributes AS JSONB) AS attributes, CAST(attributes_rows.tags AS TEXT[]) AS tags
FROM unnest(CAST($1::TEXT AS BIGINT[]), $2::TEXT[], CAST($3::TEXT AS BIGINT[]), $4::TEXT[], $5::TEXT[]) AS attributes_rows(workflow_id, key, owner_id, attributes, tags)
ORDER BY attributes_rows.owner_id
ON CONFLICT (workflow_id)
DO UPDATE
SET tags = excluded.tags, attributes = excluded.attributes
