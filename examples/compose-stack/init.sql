-- Run once, when the volume is new.
CREATE DATABASE stack;
\connect stack
CREATE TABLE greeting (text text);
INSERT INTO greeting VALUES ('hello from the database');
