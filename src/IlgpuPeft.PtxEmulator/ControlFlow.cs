namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Finds where diverged lanes meet again: the immediate post-dominator of a branch, that is the first instruction that every path
/// from it passes. Computed over single instructions by the iterative algorithm of Cooper, Harvey and Kennedy on the reversed graph.
/// </summary>
static class ControlFlow
{
    /// <param name="successors">Instructions that can follow each instruction; none where the function ends.</param>
    /// <returns>The immediate post-dominator of each instruction; -1 where only the end of the function is common to all paths.</returns>
    public static int[] PostDominators(IReadOnlyList<int[]> successors)
    {
        int count = successors.Count, end = count;
        var predecessors = new List<int>[count + 1];
        for (int i = 0; i <= count; i++)
            predecessors[i] = [];
        for (int i = 0; i < count; i++)
        {
            if (successors[i].Length == 0)
                predecessors[end].Add(i);
            foreach (int next in successors[i])
                predecessors[Math.Min(next, end)].Add(i);
        }

        // Order of the reversed graph, seen from the end; an instruction that cannot reach the end stays out of it.
        var order = new List<int>();
        var number = new int[count + 1];
        Array.Fill(number, -1);
        var stack = new Stack<(int Node, int Child)>();
        var visited = new bool[count + 1];
        stack.Push((end, 0));
        visited[end] = true;
        while (stack.Count > 0)
        {
            var (node, child) = stack.Pop();
            if (child < predecessors[node].Count)
            {
                stack.Push((node, child + 1));
                int next = predecessors[node][child];
                if (!visited[next])
                {
                    visited[next] = true;
                    stack.Push((next, 0));
                }
            }
            else
            {
                number[node] = order.Count;
                order.Add(node);
            }
        }

        var dominator = new int[count + 1];
        Array.Fill(dominator, -1);
        dominator[end] = end;
        for (bool changed = true; changed;)
        {
            changed = false;
            for (int i = order.Count - 2; i >= 0; i--)
            {
                int node = order[i], found = -1;
                int[] followers = successors[node].Length == 0 ? [end] : successors[node];
                foreach (int follower in followers)
                {
                    int next = Math.Min(follower, end);
                    if (number[next] < 0 || dominator[next] < 0)
                        continue;
                    found = found < 0 ? next : Common(found, next, dominator, number);
                }
                if (found != dominator[node])
                {
                    dominator[node] = found;
                    changed = true;
                }
            }
        }
        return [.. dominator.Take(count).Select(d => d == end ? -1 : d)];
    }

    static int Common(int a, int b, int[] dominator, int[] number)
    {
        while (a != b)
        {
            while (number[a] < number[b])
                a = dominator[a];
            while (number[b] < number[a])
                b = dominator[b];
        }
        return a;
    }
}
