//! Questions that several steps ask at the same time become one query.
//!
//! Each step looks many times at its own table, and a look costs the server the same for one table as for many. What
//! holds for a query of one's own holds here: an answer is never older than its question, since a query is made of the
//! questions that wait when it begins, and whoever comes later waits for the next one.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::Error;

/// Questions that one query takes at most; the answers to them are in memory at the same time.
const AT_A_TIME: usize = 64;
/// How long a query waits for more questions, where the one before had several: those who were answered together ask
/// the next thing at about the same time.
const WINDOW: Duration = Duration::from_millis(40);
/// How long the others may hold one up, before it asks alone.
const PATIENCE: Duration = Duration::from_secs(3);

/// One kind of question. `K` is what is asked about, `V` one row of the answer.
pub(super) struct Gather<K, V> {
    /// Whose query runs, and how many questions the one before had.
    turn: tokio::sync::Mutex<usize>,
    waiting: Mutex<Vec<(K, oneshot::Sender<Vec<V>>)>>,
}

impl<K, V> Default for Gather<K, V> {
    fn default() -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash + Send, V: Clone + Send> Gather<K, V> {
    /// The rows about `key`, by `query`, which is called with all keys that are asked about. When it fails for several,
    /// or takes long, `key` is asked about alone.
    ///
    /// # Errors
    /// Those of a query for `key` alone.
    pub(super) async fn ask<'a>(
        &self,
        key: K,
        query: impl Fn(Vec<K>) -> BoxFuture<'a, Result<Vec<(K, V)>, Error>>,
    ) -> Result<Vec<V>, Error> {
        if let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, self.ask_together(&key, &query)).await {
            return answer;
        }
        let rows = query(vec![key.clone()]).await?;
        Ok(rows
            .into_iter()
            .filter(|(of, _)| *of == key)
            .map(|(_, row)| row)
            .collect())
    }

    /// None when it has to be asked alone.
    async fn ask_together<'a>(
        &self,
        key: &K,
        query: &impl Fn(Vec<K>) -> BoxFuture<'a, Result<Vec<(K, V)>, Error>>,
    ) -> Option<Result<Vec<V>, Error>> {
        let (answer, mut answered) = oneshot::channel();
        self.waiting().push((key.clone(), answer));
        let mut turn = tokio::select! {
            biased;
            rows = &mut answered => return rows.ok().map(Ok),
            turn = self.turn.lock() => turn,
        };
        match answered.try_recv() {
            Ok(rows) => return Some(Ok(rows)),
            // The query that had this question among others failed, or was given up.
            Err(oneshot::error::TryRecvError::Closed) => return None,
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        if *turn > 1 {
            tokio::time::sleep(WINDOW).await;
        }
        // From here on nobody joins this query.
        let asked = self.take_waiting(key);
        let keys: HashSet<K> = asked.iter().map(|(key, _)| key.clone()).chain([key.clone()]).collect();
        *turn = asked.len();
        let alone = keys.len() == 1;
        let rows = match query(keys.into_iter().collect()).await {
            Ok(rows) => rows,
            Err(error) => return alone.then_some(Err(error)),
        };
        let mut of: HashMap<K, Vec<V>> = HashMap::new();
        for (key, row) in rows {
            of.entry(key).or_default().push(row);
        }
        for (key, answer) in asked {
            // Who asked may have gone.
            let _ = answer.send(of.get(&key).cloned().unwrap_or_default());
        }
        Some(Ok(of.remove(key).unwrap_or_default()))
    }

    /// The questions of the next query, without those that nobody waits for any more.
    fn take_waiting(&self, own: &K) -> Vec<(K, oneshot::Sender<Vec<V>>)> {
        let mut waiting = self.waiting();
        waiting.retain(|(_, answer)| !answer.is_closed());
        let mut keys: HashSet<K> = HashSet::from([own.clone()]);
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for (key, answer) in waiting.drain(..) {
            if keys.len() < AT_A_TIME || keys.contains(&key) {
                keys.insert(key.clone());
                taken.push((key, answer));
            } else {
                left.push((key, answer));
            }
        }
        *waiting = left;
        taken
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<(K, oneshot::Sender<Vec<V>>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
