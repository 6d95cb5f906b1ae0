/*
 * outbox--0.9--1.0.sql: makes of the last snapshot before 1.0, which is
 * t/upgrade/outbox--0.9.sql, what outbox--1.0.sql makes.
 *
 * New columns come last there, too.  New objects get their rights here as they
 * do at its end, where default privileges may have granted more; those of
 * others stay as they are, since users have granted some.
 */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION outbox UPDATE TO '1.0'" to load this file. \quit
