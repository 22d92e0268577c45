//! What is in a dump: everything, in the same bytes each time, in parts that begin where statements do.

use std::time::Duration;

use understudy_databases::Database;

use crate::server::Server;
use crate::{EVERYTHING, files};

#[test]
fn everything_is_dumped_loaded_and_dumped_again_with_the_same_bytes() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql(EVERYTHING);
    let shop = server.mariadb("shop");
    let (first, second, third) = (
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let dump = shop.dump(first.path()).unwrap();
    shop.dump(second.path()).unwrap();
    assert_eq!(files(first.path()), files(second.path()));
    assert_eq!(dump.rows, shop.count("shop").unwrap());
    assert_eq!(dump.rows["t"], 3000);
    assert_eq!(dump.writers_waited, Duration::ZERO);
    assert!(files(first.path()).contains_key("table.%2E%2Ew%C3%A9ird%2F%60%25.sql"));

    server.sql("CREATE DATABASE copy; CREATE TABLE copy.before_it (a INT)");
    for _ in 0..2 {
        shop.load(first.path(), "copy").unwrap();
        assert_eq!(shop.count("copy").unwrap(), dump.rows);
        assert_eq!(server.sql("SELECT COUNT(*) FROM copy.v"), "3000");
    }
    assert_eq!(shop.count("copy__previous").unwrap(), dump.rows);
    server.mariadb("copy").dump(third.path()).unwrap();
    for (name, bytes) in files(first.path()) {
        let (bytes, again) = (
            String::from_utf8_lossy(&bytes).into_owned(),
            String::from_utf8_lossy(&files(third.path())[&name]).into_owned(),
        );
        let expected = match name.as_str() {
            "contents.json" => bytes.replace("\"shop\",\n  \"char", "\"copy\",\n  \"char"),
            "table.numbered.sql" => bytes.replace("`shop`.", "`copy`."),
            "view.w.sql" => bytes.replace("`shop`.`f`() AS", "`copy`.`f`() AS"),
            _ => bytes
                .replace("Database: shop", "Database: copy")
                .replace("database 'shop'", "database 'copy'"),
        };
        assert_eq!(again, expected, "{name}");
    }
    // A failed load leaves what is there.
    std::fs::remove_file(first.path().join("table.t.sql")).unwrap();
    let error = shop.load(first.path(), "copy").unwrap_err().to_string();
    assert!(error.contains("was not read to its end"), "{error}");
    assert_eq!(shop.count("copy").unwrap(), dump.rows);
    shop.drop_database("copy").unwrap();
    shop.drop_database("copy").unwrap();
    assert_eq!(server.sql("SHOW DATABASES LIKE 'copy%'"), "");
}

/// Where the name of the source is in what the engine writes, it becomes that of the target: nothing refers to the source any more.
#[test]
fn what_is_loaded_under_another_name_stands_on_its_own() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql(EVERYTHING);
    let scratch = tempfile::tempdir().unwrap();
    let shop = server.mariadb("shop");
    shop.dump(scratch.path()).unwrap();
    server.sql("DROP DATABASE shop");
    for _ in 0..2 {
        shop.load(scratch.path(), "it's `new`").unwrap();
        server.sql(
            "USE `it's ``new```; INSERT INTO numbered (b) VALUES (3); INSERT INTO shop VALUES (9)",
        );
        assert_eq!(
            server.sql("SELECT GROUP_CONCAT(a ORDER BY a) FROM `it's ``new```.numbered"),
            "1,2,3"
        );
        assert_eq!(
            server.sql("SELECT * FROM `it's ``new```.w"),
            "9\t4\tshop.f() `shop`.`f`()"
        );
    }
}

/// What looks like the begin of a part, or of a statement, wherever a person can write it.
const HEADINGS: &str = r#"
CREATE DATABASE shop; USE shop;
CREATE TABLE `a
-- Table structure for table ``zz``
b` (a INT PRIMARY KEY, b TEXT COMMENT 'x
--
-- Table structure for table `u`
--
') ENGINE=InnoDB COMMENT '
/*!50003 SET @saved_cs_client';
INSERT INTO `a
-- Table structure for table ``zz``
b` VALUES (1,'x\n--\n-- Table structure for table `u`\n--\n\nINSERT INTO `t` VALUES (1),(2);\n-- Dump completed\n'),(2,'it''s \\'),(3,0xff);
SET sql_mode='NO_BACKSLASH_ESCAPES,ANSI_QUOTES';
DELIMITER //
CREATE PROCEDURE p() BEGIN
/* it's
DELIMITER ;
--
-- Table structure for table `u`
--
*/
SELECT '\', "a\";
SELECT '
DELIMITER ;
--
-- Table structure for table `u2`
--
';
END//
SET sql_mode=DEFAULT//
CREATE PROCEDURE p2() BEGIN
-- it's a comment ;;
# and another's
-- Dump completed
SELECT ";;", 'a;;b', 1 - -1, 4/ 2;
END//
CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO BEGIN
--
-- Dumping routines for database 'shop'
--
SELECT 1;
END//
CREATE TRIGGER tr BEFORE INSERT ON `a
-- Table structure for table ``zz``
b` FOR EACH ROW BEGIN
SET @x='
DELIMITER ;
--
-- Final view structure for view `u`
--
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE';
END//
CREATE VIEW v AS SELECT '
--
-- Table structure for table `u`
--
INSERT INTO ' AS b//
"#;

#[test]
fn no_text_of_a_person_is_taken_for_the_begin_of_a_part() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.sql_with(&["--comments"], HEADINGS);
    let shop = server.mariadb("shop");
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dump = shop.dump(first.path()).unwrap();
    let name = "a\n-- Table structure for table `zz`\nb";
    assert_eq!(
        dump.rows.into_iter().collect::<Vec<_>>(),
        [(name.to_owned(), 3)]
    );
    let table = "a%0A--%20Table%20structure%20for%20table%20%60zz%60%0Ab";
    assert_eq!(
        files(first.path()).into_keys().collect::<Vec<_>>(),
        [
            "contents.json",
            "events.sql",
            "head.sql",
            "routines.sql",
            "stand-in.v.sql",
            &format!("table.{table}.sql"),
            "tail.sql",
            &format!("triggers.{table}.sql"),
            "view.v.sql",
        ]
    );
    shop.load(first.path(), "copy").unwrap();
    server.mariadb("copy").dump(second.path()).unwrap();
    for (name, bytes) in files(first.path()) {
        if !["contents.json", "head.sql", "events.sql", "routines.sql"].contains(&name.as_str()) {
            assert_eq!(files(second.path())[&name], bytes, "{name}");
        }
    }
    assert!(server.sql("SELECT ROUTINE_DEFINITION FROM information_schema.routines WHERE routine_schema='copy' AND routine_name='p'").contains("u2"));
}
