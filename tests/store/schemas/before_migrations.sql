CREATE TABLE adapters (
	name VARCHAR NOT NULL, 
	next_version INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE versions (
	name VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	base_name VARCHAR NOT NULL, 
	kinds JSON NOT NULL, 
	num_layers INTEGER NOT NULL, 
	nnz INTEGER NOT NULL, 
	num_bytes INTEGER NOT NULL, 
	created DOUBLE NOT NULL, 
	metadata JSON NOT NULL, 
	PRIMARY KEY (name, version), 
	UNIQUE (name, digest), 
	FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE INDEX ix_versions_digest ON versions (digest);
INSERT INTO adapters VALUES ('sql', 4), ('ns/odd', 2), ('gone', 9);
INSERT INTO versions VALUES
('sql', 1, 'sha256:0000000000000000000000000000000000000000000000000000000000000001', 'tiny-base', '["element"]', 2, 7, 99, 1700000000.25, '{"task": "Text to SQL", "tags": ["db", "sql"]}'),
('sql', 3, 'sha256:0000000000000000000000000000000000000000000000000000000000000002', 'tiny-base', '["bias", "low_rank"]', 1, 5, 88, 1700000001.5, '{}'),
('ns/odd', 1, 'sha256:0000000000000000000000000000000000000000000000000000000000000001', 'tiny-base', '["element"]', 2, 7, 99, 1700000002.0, '{"task": 7, "tags": [{"a": 1}, "kept", ""], "description": "nul \u0000 here"}');
