BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v2.6.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'old');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,0.3);
INSERT INTO "trial_intermediate_values" VALUES(2,2,1,0.3);
INSERT INTO "trial_intermediate_values" VALUES(3,3,1,0.3);
INSERT INTO "trial_intermediate_values" VALUES(4,4,1,0.3);
INSERT INTO "trial_intermediate_values" VALUES(5,5,1,0.3);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'learning_rate',1.69476739706736902017e-03,'{"name": "LogUniformDistribution", "attributes": {"low": 0.0001, "high": 0.1}}');
INSERT INTO "trial_params" VALUES(2,1,'dropout_rate',2.67441089282076716049e-01,'{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 0.5}}');
INSERT INTO "trial_params" VALUES(3,1,'width',64.0,'{"name": "IntUniformDistribution", "attributes": {"low": 16, "high": 64, "step": 16}}');
INSERT INTO "trial_params" VALUES(4,1,'act',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["relu", null, true]}}');
INSERT INTO "trial_params" VALUES(5,2,'learning_rate',6.89859023907249684255e-04,'{"name": "LogUniformDistribution", "attributes": {"low": 0.0001, "high": 0.1}}');
INSERT INTO "trial_params" VALUES(6,2,'dropout_rate',3.13865472225333841382e-01,'{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 0.5}}');
INSERT INTO "trial_params" VALUES(7,2,'width',48.0,'{"name": "IntUniformDistribution", "attributes": {"low": 16, "high": 64, "step": 16}}');
INSERT INTO "trial_params" VALUES(8,2,'act',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["relu", null, true]}}');
INSERT INTO "trial_params" VALUES(9,3,'learning_rate',6.75070159359640879943e-04,'{"name": "LogUniformDistribution", "attributes": {"low": 0.0001, "high": 0.1}}');
INSERT INTO "trial_params" VALUES(10,3,'dropout_rate',2.71977359198071644286e-01,'{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 0.5}}');
INSERT INTO "trial_params" VALUES(11,3,'width',16.0,'{"name": "IntUniformDistribution", "attributes": {"low": 16, "high": 64, "step": 16}}');
INSERT INTO "trial_params" VALUES(12,3,'act',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["relu", null, true]}}');
INSERT INTO "trial_params" VALUES(13,4,'learning_rate',9.42375170915065452081e-02,'{"name": "LogUniformDistribution", "attributes": {"low": 0.0001, "high": 0.1}}');
INSERT INTO "trial_params" VALUES(14,4,'dropout_rate',2.20601924639527269267e-01,'{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 0.5}}');
INSERT INTO "trial_params" VALUES(15,4,'width',32.0,'{"name": "IntUniformDistribution", "attributes": {"low": 16, "high": 64, "step": 16}}');
INSERT INTO "trial_params" VALUES(16,4,'act',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["relu", null, true]}}');
INSERT INTO "trial_params" VALUES(17,5,'learning_rate',1.24603144485359101315e-04,'{"name": "LogUniformDistribution", "attributes": {"low": 0.0001, "high": 0.1}}');
INSERT INTO "trial_params" VALUES(18,5,'dropout_rate',1.71538914764482519625e-01,'{"name": "UniformDistribution", "attributes": {"low": 0.0, "high": 0.5}}');
INSERT INTO "trial_params" VALUES(19,5,'width',64.0,'{"name": "IntUniformDistribution", "attributes": {"low": 16, "high": 64, "step": 16}}');
INSERT INTO "trial_params" VALUES(20,5,'act',2.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["relu", null, true]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'ticket','"seven"');
INSERT INTO "trial_user_attributes" VALUES(2,2,'ticket','"seven"');
INSERT INTO "trial_user_attributes" VALUES(3,3,'ticket','"seven"');
INSERT INTO "trial_user_attributes" VALUES(4,4,'ticket','"seven"');
INSERT INTO "trial_user_attributes" VALUES(5,5,'ticket','"seven"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,-2.7574632188500936003e-01);
INSERT INTO "trial_values" VALUES(2,2,0,-3.23175613201426570331e-01);
INSERT INTO "trial_values" VALUES(3,3,0,-0.281302289038712);
INSERT INTO "trial_values" VALUES(4,4,0,-3.04839441731033833349e-01);
INSERT INTO "trial_values" VALUES(5,5,0,-1.81414311619997159485e-01);
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-28 04:56:51.358582','2026-11-28 04:56:51.395265');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-28 04:56:51.412028','2026-11-28 04:56:51.437483');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-28 04:56:51.449776','2026-11-28 04:56:51.473104');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-28 04:56:51.484737','2026-11-28 04:56:51.508787');
INSERT INTO "trials" VALUES(5,4,1,'COMPLETE','2026-11-28 04:56:51.520397','2026-11-28 04:56:51.543801');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'2.10.1');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
COMMIT;
