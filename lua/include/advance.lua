-- The fast path of write.lua: one room, in which the caller has a status and goes up. Times are milliseconds.
--
-- It comes before all else, and defines nothing: functions and tables that are not used are a third of the cost of a
-- call. Whatever is unusual, it leaves to the rest of the script before it writes. A test compares the two. The
-- arguments are as in write.lua, the counts as in counts.lua, the entry as in feed.lua.

if #ARGV == 14 and ARGV[1] ~= '0' then
  local room, rank, owner, incoming, expected_generation = KEYS[5], ARGV[6], ARGV[8], ARGV[12], ARGV[13]
  local names = {rank == '' and 'status' or 'status:' .. rank, 'world_size'}
  if rank ~= '' then names[3], names[4] = 'counts', 'version' end
  if expected_generation ~= '' then names[#names + 1] = 'generation' end
  if rank ~= '' and owner ~= '' then names[#names + 1] = 'by:' .. rank end
  local found = redis.pcall('HMGET', room, unpack(names))
  local own, version, consensus, ttl_ms, counts = found[1], found[4], incoming, ARGV[2], nil
  local from = own == 'Bootstrapping' and 1 or own == 'WaitingForInput' and 2 or own == 'Transferring' and 3 or 9
  local to = incoming == 'Success' and 4 or incoming == 'Transferring' and 3 or incoming == 'WaitingForInput' and 2 or 0
  local is_usual = from < to and (found[2] or '') == ARGV[7]
  if is_usual and expected_generation ~= '' then
    is_usual = found[rank == '' and 3 or 5] == expected_generation
  end
  if is_usual and owner ~= '' then
    local lease = redis.call('HGET', KEYS[3], owner)
    is_usual = lease and string.find(lease, ARGV[9] .. ' ', 1, true) == 1 and (rank == '' or found[#names] == ARGV[9])
  end
  if is_usual and rank ~= '' then
    counts = {string.match(found[3] or '', '^(%d+) (%d+) (%d+) (%d+) (0) (%d+)$')}
    is_usual = counts[from] and counts[from] ~= '0' and string.find(version or '', '^[1-9]%d*$') and #version < 16
    if is_usual then
      counts[from], counts[to] = counts[from] - 1, counts[to] + 1
      if counts[1] + counts[2] + counts[3] + counts[4] - ARGV[7] ~= 0 or counts[1] - 0 > 0 then
        consensus = 'Bootstrapping'
      else
        consensus = counts[2] - 0 > 0 and 'WaitingForInput' or counts[3] - 0 > 0 and 'Transferring' or 'Success'
      end
    end
  end
  if is_usual then
    local time, id = redis.call('TIME'), string.sub(room, #KEYS[1] + 2)
    local now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
    if consensus == 'Success' then ttl_ms = ARGV[3] end
    local entry = {'ttl_ms', ttl_ms, id, consensus}
    redis.call('PEXPIRE', room, ttl_ms)
    if rank == '' then
      redis.call('HSET', room, 'status', incoming, 'updated_ms', now_ms)
    else
      entry[5], entry[6] = 'rank:' .. rank, incoming
      redis.call(
        'HSET', room, names[1], incoming, 'status', consensus, 'updated_ms', now_ms, 'version',
        string.format('%.0f', version + 1), 'counts', table.concat(counts, ' ')
      )
      if to == 4 then redis.call('HDEL', room, 'by:' .. rank) end
    end
    local appended = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', unpack(entry))
    if not appended or appended.err then
      if appended then redis.call('DEL', KEYS[1]) end
      appended = redis.call('XADD', KEYS[1], '*', unpack(entry))
      redis.call('PEXPIRE', KEYS[1], '86400000')
    end
    return {appended, redis.call('HGET', KEYS[2], 'epoch'), 2, incoming}
  end
end
